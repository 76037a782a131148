"""The Core ML reference interpreter: saved packages against PyTorch's own results, operator by operator."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from himix_edge.errors import InputError
from himix_edge.export.graphs import quiet
from himix_edge.runtimes.coreml import interpreter
from himix_edge.runtimes.coreml.interpreter import OPERATORS, Interpreter, load_program

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

CASES = {
    "linear": lambda x: F.linear(x, torch.linspace(-1, 1, 40).reshape(5, 8), torch.ones(5)),
    "layer_norm": lambda x: F.layer_norm(x, (8,), torch.linspace(1, 2, 8), torch.ones(8)),
    "gelu": F.gelu,
    "gelu, tanh spelled out": lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x * x * x))),
    "silu": F.silu,
    "relu6": lambda x: F.relu6(3 * x),
    "softmax": lambda x: x.softmax(-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x + 1, x - 1, attn_mask=torch.ones(8, 8).tril().bool()),
    "convolution": lambda x: F.conv2d(x, torch.linspace(-1, 1, 108).reshape(4, 3, 3, 3), torch.ones(4), 2, 1),
    "depthwise": lambda x: F.conv2d(F.pad(x, (0, 1, 2, 1)), torch.linspace(-1, 1, 27).reshape(3, 1, 3, 3), groups=3),
    "reductions": lambda x: x.mean((2, 3), keepdim=True) + x.abs().amax(-1, keepdim=True) + x.sum(1, keepdim=True),
    "shapes": lambda x: x.permute(0, 2, 3, 1).reshape(2, 4, 2, 24)[:, 1:, :, ::2].unsqueeze(1).repeat(1, 2, 1, 1, 1),
    "split and join": lambda x: torch.cat([x.chunk(2, -1)[1], -x.chunk(2, -1)[0]], -1),
    "powers": lambda x: torch.rsqrt(x * x + 0.5) + torch.sqrt(x.abs()) + x**2 / 3,
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "gather": lambda x: x.index_select(2, torch.tensor([3, 1, 1])),
    "where": lambda x: torch.where(x > 0.5, x, x.clamp(-0.3, 0.3)),
}  # fmt: skip


class Case(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def saved(function, path, half=False):
    import coremltools

    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    with quiet():
        program = torch.export.export(Case(function), (X,)).run_decompositions({})
        coremltools.convert(
            program, minimum_deployment_target=coremltools.target.iOS18, compute_precision=precision,
            inputs=[coremltools.TensorType(name="x", shape=X.shape)],
            outputs=[coremltools.TensorType(name="y")], skip_model_load=True,
        ).save(str(path))  # fmt: skip
    return load_program(path)


@pytest.mark.parametrize("name", CASES)
def test_operators_equal_pytorch(tmp_path, name):
    expected = CASES[name](X)
    exact = Interpreter(saved(CASES[name], tmp_path / "a.mlpackage"), "main", tmp_path).run({"x": X}, {})["y"]
    assert torch.allclose(exact, expected, rtol=1e-4, atol=1e-5)
    half = Interpreter(saved(CASES[name], tmp_path / "b.mlpackage", True), "main", tmp_path).run({"x": X}, {})["y"]
    assert torch.allclose(half.float(), expected, rtol=2e-2, atol=2e-2)
    if name not in ("shapes", "gather", "split and join"):
        assert not torch.equal(half.float(), expected), "float16 has to show"


def test_an_operator_that_is_not_known_is_named(tmp_path, monkeypatch):
    program = saved(F.gelu, tmp_path / "a.mlpackage")
    with pytest.raises(InputError, match="no function 'prefill'; it has main"):
        Interpreter(program, "prefill", tmp_path)
    monkeypatch.delitem(OPERATORS, "gelu")
    with pytest.raises(InputError, match="no operator gelu; open it on macOS"):
        load_program(tmp_path / "a.mlpackage")


def change_model(package, change):
    """Change a saved package's Model.proto."""
    from coremltools.proto.Model_pb2 import Model

    path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = Model.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def blobs(model):
    block = model.mlProgram.functions["main"].block_specializations["CoreML8"]
    values = [value for operation in block.operations for value in operation.attributes.values()]
    return [value.blobFileValue for value in values if value.WhichOneof("value") == "blobFileValue"]


@pytest.mark.parametrize(("field", "value", "message"), [
    ("fileName", "@model_path/weights/../../../x.bin", "outside of the package"),
    ("fileName", "/etc/passwd", "outside of the package"),
    ("fileName", "@model_path/weights/..", "outside of the package"),
    ("fileName", "@model_path/weights/none.bin", "which has 0"),
    ("offset", 1 << 60, "weights at byte 1152921504606846976"),
    ("offset", 65, "weights at byte 65"),
    ("offset", 0, "weights at byte 0"),
])  # fmt: skip
def test_weights_outside_of_the_package_or_its_file(tmp_path, field, value, message):
    package = tmp_path / "a.mlpackage"
    saved(CASES["linear"], package)
    change_model(package, lambda model: setattr(blobs(model)[0], field, value))
    with pytest.raises(InputError, match=message):
        load_program(package)


def test_a_model_of_another_kind(tmp_path):
    saved(F.gelu, tmp_path / "a.mlpackage")
    change_model(tmp_path / "a.mlpackage", lambda model: model.neuralNetwork.layers.add())
    with pytest.raises(InputError, match="no MIL program"):
        load_program(tmp_path / "a.mlpackage")


def test_a_result_that_would_fill_the_memory(tmp_path, monkeypatch):
    program = saved(CASES["matmul"], tmp_path / "a.mlpackage")
    monkeypatch.setattr(interpreter, "MAX_ELEMENTS", X.numel() - 1)
    with pytest.raises(InputError, match="would have the shape"):
        Interpreter(program, "main", tmp_path)


def test_inputs_of_another_shape(tmp_path):
    program = Interpreter(saved(F.gelu, tmp_path / "a.mlpackage"), "main", tmp_path)
    with pytest.raises(InputError, match="takes x as"):
        program.run({"x": X[:1]}, {})


def test_what_is_no_package(tmp_path):
    with pytest.raises(InputError, match="not a readable Core ML package"):
        load_program(tmp_path)
    data = tmp_path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="not a readable Core ML package"):
        load_program(tmp_path)


@pytest.mark.parametrize(("looks_between", "copies"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_cache_is_copied_only_where_something_else_needs_it(monkeypatch, tmp_path, looks_between, copies, at_once):
    """Written to a state at the end, or `at_once` with every write."""
    from coremltools import target
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types

    specs = [Builder.TensorSpec((1, 2), types.fp16), Builder.StateTensorSpec((4, 2), types.fp16)]

    @Builder.program(input_specs=specs, opset_version=target.iOS18)
    def program(new, cache):
        def write(x, update, row):
            made = Builder.slice_update(x=x, update=update, begin=[row, 0], end=[row + 1, 2])
            return Builder.coreml_update_state(state=cache, value=made) if at_once else made

        twice = Builder.add(x=new, y=new)
        first = write(Builder.read_state(input=cache), new, 0)
        seen = Builder.slice_by_index(x=first, begin=[0, 0], end=[1, 2]) if looks_between else new
        third = write(write(first, twice, 0), seen, 3)
        if not at_once:
            Builder.coreml_update_state(state=cache, value=third)
        return Builder.identity(x=third, name="whole")

    clone, made = torch.Tensor.clone, []
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: made.append(self.shape) or clone(self))
    cache, new = torch.zeros(4, 2), torch.ones(1, 2)
    states = {"cache": cache}
    found = Interpreter(program, "main", tmp_path, rounding=False).run({"new": new}, states)
    assert states["cache"].tolist() == [[2, 2], [0, 0], [0, 0], [1, 1]]
    assert torch.equal(found["whole"], states["cache"])
    assert cache.abs().sum() == 0  # of the caller, as the input
    assert new.tolist() == [[1, 1]]
    assert made == [(4, 2)] * copies
