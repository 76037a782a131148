"""LiteRT: graphs written operator by operator, weights as they are stored, a cache of several sizes."""

import itertools
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.quantization.tensors import quantize_tensor
from himix_edge.export.targets.executorch.weights import int8_per_token
from himix_edge.export.targets.litert import target as litert_target
from himix_edge.export.targets.litert.graph import Graph
from himix_edge.export.targets.litert.lowering import lower, reordered
from himix_edge.export.targets.litert.model_file import ModelFile, StoredModel, write_model
from himix_edge.export.targets.litert.modules import HANDLERS, StoredEmbedding, StoredLinear
from himix_edge.export.targets.litert.weights import pack_nibbles, unpack_nibbles
from himix_edge.model import build_model
from himix_edge.runtimes import open_bundle, open_checkpoint
from himix_edge.runtimes.litert import engine as litert_engine
from himix_edge.runtimes.litert.files import outside_files
from himix_edge.runtimes.litert.model import Model
from tests.conftest import TINY


def written(module, arguments, path):
    """The module as a file with one graph, which takes a, b, ... and gives y."""
    program = torch.export.export(module.eval(), arguments)
    file = ModelFile()
    lower(program, Graph(file, "main"), "abc"[: len(arguments)], ["y"], HANDLERS)
    write_model(file.schema, file.model, file.appended, path)
    return path


def computed(path, *arguments):
    made = Model(path, 1).call(dict(zip("abc", (a.numpy() for a in arguments), strict=False)))
    return torch.from_numpy(made["y"])


class Map(nn.Module):
    """Convolutions of every kind of padding, and what stands around them."""

    def __init__(self):
        super().__init__()
        self.first, self.same = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.several, self.grouped = (
            nn.Conv2d(8, 16, 5, stride=2, padding=2, groups=8),
            nn.Conv2d(16, 16, 1, bias=False),
        )
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 6)

    def forward(self, a):
        x = F.relu6(self.first(F.pad(a.permute(0, 3, 1, 2), (1, 0, 2, 1))))
        x = F.gelu(self.several(x + self.same(x)))
        cells = self.norm(self.grouped(x).flatten(2).transpose(1, 2))
        x = cells.transpose(1, 2).unflatten(2, x.shape[2:]) * x
        cells = x.flatten(2).transpose(1, 2)
        pooled = cells.unflatten(1, (-1, 5)).mean(2)
        gain = torch.sigmoid(self.out(pooled.sum(1, keepdim=True))) * 2 - 1
        return torch.cat([self.out(cells), self.out(pooled) * gain], dim=1)[:, 1:]


class Heads(nn.Module):
    """Attention with grouped heads, and operators on axes."""

    def forward(self, a, b):
        query = a.unflatten(2, (4, 8)).transpose(1, 2)
        key, value = b.unflatten(2, (2, 16)).transpose(1, 2).chunk(2, dim=-1)
        key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
        mask = torch.ones(5, 7, dtype=torch.bool).tril(2)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        first, second = x.split([20, 12], dim=-1)
        x = torch.cat([-second, F.silu(first), F.gelu(second, approximate="tanh")], dim=-1)
        largest, place = x.max(dim=1)
        x = x + largest[:, None] + place[:, None].float()
        x = torch.stack([x, x.clamp(-0.5, 0.5)], dim=1).unbind(1)[1] + torch.where(x < 0, x.exp(), x.tanh())
        return F.rms_norm(x, (44,), torch.linspace(0.5, 1.5, 44), 1e-6).pow(2)[:, ::2]


@pytest.mark.parametrize(("module", "shapes"), [(Map, [(1, 15, 17, 3)]), (Heads, [(1, 5, 32), (1, 7, 32)])])
def test_a_graph_computes_what_pytorch_does(module, shapes, tmp_path):
    torch.manual_seed(0)
    made, given = module().requires_grad_(False), [torch.randn(shape) for shape in shapes]
    found = computed(written(made, tuple(given), tmp_path / "x.tflite"), *given)
    torch.testing.assert_close(found, made(*given), rtol=1e-4, atol=2e-5)


def test_an_operator_without_a_counterpart_is_named(tmp_path):
    class Rolled(nn.Module):
        def forward(self, a):
            return a.roll(1, 0)

    with pytest.raises(InputError, match=r"no counterpart of aten\.roll\.default"):
        written(Rolled(), (torch.zeros(4),), tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []


def test_axes_that_are_split_and_joined_stay_where_they_are():
    """All orders of all reshapes of some numbers, against NumPy."""
    kept = 0
    shapes = [(2, 3, 4), (6, 4), (2, 12), (2, 3, 2, 2), (24,), (1, 6, 4), (2, 3, 1, 4), (4, 6), (3, 8)]
    for stored, shape in itertools.product([(2, 3, 4), (4, 2, 3), (6, 4), (2, 2, 3, 2), (1, 6, 4)], shapes):
        numbers = np.arange(math.prod(stored)).reshape(stored)
        for order in itertools.permutations(range(len(stored))):
            found = reordered(stored, order, shape)
            if found is not None:
                kept += 1
                seen = numbers.reshape(found[0]).transpose(found[1])
                np.testing.assert_array_equal(seen, numbers.transpose(order).reshape(shape))
    assert kept > 80


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32), (4, 64)])
def test_a_linear_rounds_its_input_as_the_emulation_does(bits, group, tmp_path):
    """Asymmetric int8 with a scale for each token, whatever its size; an embedding of the same table rounds nothing."""
    torch.manual_seed(0)
    weight = quantize_tensor(torch.randn(48, 64), bits, group)
    x = torch.randn(5, 64) * torch.tensor([1, 30, 0.01, 2, 1])[:, None]
    x[4] = x[4].abs()
    bias = torch.randn(48)
    found = computed(written(StoredLinear("w", weight, bias), (x[None],), tmp_path / "x.tflite"), x[None])[0]
    expected = F.linear(int8_per_token(x), weight.dequantize(), bias)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-6
    table = SimpleNamespace(name="w", bits=bits, values=weight.values, scale=weight.scale)
    ids = torch.tensor([[3, 47, 0]], dtype=torch.int32)
    rows = computed(written(StoredEmbedding(table), (ids,), tmp_path / "y.tflite"), ids)
    assert torch.equal(rows[0], weight.dequantize()[ids[0]])


def test_graphs_share_what_is_stored():
    """Integers and scales of a weight, and a float matrix, once for two graphs."""
    weight, x = quantize_tensor(torch.randn(64, 64), 4, 32), torch.randn(1, 3, 64)
    module = nn.Sequential(StoredLinear("w", weight, None), nn.Linear(64, 64)).requires_grad_(False)
    file = ModelFile()
    for name in ("one", "other"):
        lower(torch.export.export(module, (x,)), Graph(file, name), ["a"], ["y"], HANDLERS)
    assert sorted(constant.size for constant in file.appended.values()) == [64 * 2 * 2, 64 * 64 // 2, 64 * 64 * 4]


def test_nibbles():
    values = torch.randint(-8, 8, (6, 10), dtype=torch.int8)
    assert torch.equal(unpack_nibbles(pack_nibbles(values), 6, 10), values)
    assert pack_nibbles(torch.tensor([[1, -2]], dtype=torch.int8)).tolist() == [0xE1]


def test_sizes_of_caches():
    assert litert_engine.cache_sizes(96) == [160]
    assert litert_engine.cache_sizes(512) == [256, 576]
    assert litert_engine.cache_sizes(2048) == [256, 512, 1024, 2112]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    """The tiny model in float, with caches of three sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_engine, "SMALLEST", 72)
        for module in (litert_engine, litert_target):
            patch.setattr(module, "STEPS", (16, 4, 1))
        patch.setattr(litert_engine, "FEW", 12)
        patch.setattr(litert_engine, "SINGLE", 2)
        out = tmp_path_factory.mktemp("litert") / "bundle"
        made = export(plan(ExportRequest(str(tiny_checkpoint), "litert", "none", out, probe_questions=2)))
        assert litert_engine.cache_sizes(96) == [72, 112]
        yield made.folder


def test_a_cache_grows_and_prompts_of_any_length_are_read(bundle, tiny_checkpoint, probe_image):
    session, reference = open_bundle(bundle, threads=1), open_checkpoint(str(tiny_checkpoint))
    image = session.encode_image(probe_image)
    for engine in (session.engine, reference.engine):
        engine.start(image.key, image.value, 0)
    ids = np.random.default_rng(0).integers(5, 300, 80)
    first = 0
    for count in (1, 2, 17, 1, 13, 33, 1, 12):  # the last fills the capacity; the cache grows on the way
        part = ids[first : first + count]
        np.testing.assert_allclose(session.engine.step(part), reference.engine.step(part), rtol=0, atol=2e-4)
        first += count
    assert first == 96 - TINY.vision.num_tokens
    for engine in (session.engine, reference.engine):  # and is smaller again for the next
        engine.start(image.key[:, :, :0], image.value[:, :, :0], 0)
    np.testing.assert_allclose(session.engine.step(ids[:3]), reference.engine.step(ids[:3]), rtol=0, atol=2e-4)


def test_a_text_alone_reads_no_memory_that_nobody_filled(bundle, monkeypatch):
    buffers = Model.buffers

    def full_of_nan(self, graph):
        inputs, outputs = buffers(self, graph)
        for name, (_, shape) in self.ports(graph)[0].items():
            if name.startswith("past"):
                inputs[name].write(np.full(shape, np.nan, np.float32))
        return inputs, outputs

    monkeypatch.setattr(Model, "buffers", full_of_nan)
    engine = open_bundle(bundle, threads=1).engine
    nothing = np.zeros((TINY.num_vision_rows, TINY.decoder.num_key_value_heads, 0, TINY.decoder.head_dim), np.float32)
    engine.start(nothing, nothing, 0)
    assert np.isfinite(engine.step(np.array([5]))).all()


def test_weights_stand_behind_the_flatbuffer_once(bundle):
    file = bundle / "decoder.tflite"
    stored = StoredModel(file)
    assert len(stored.model.subgraphs) == 6
    sizes = {name: p.numel() for name, p in build_model(TINY).named_parameters() if name.startswith("model.")}
    floats = 4 * sum(size for name, size in sizes.items() if "_img" not in name)
    assert floats < sum(constant.size for constant in stored.appended().values()) < 1.1 * floats
    assert file.stat().st_size < 3 * floats  # graphs of a tiny model are as large as it


def test_a_file_that_names_others_is_refused(bundle, tmp_path):
    stored = StoredModel(bundle / "vision_injector.tflite")
    group = stored.schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    stored.model.externalBufferGroups = [group]
    write_model(stored.schema, stored.model, stored.appended(), tmp_path / "x.tflite")
    with pytest.raises(InputError, match="weights in other files"):
        list(outside_files(tmp_path, "x.tflite"))
    assert list(outside_files(bundle, "vision_injector.tflite")) == []
    for content in (b"", b"\0" * 3, b"\xff" * 4 + b"TFL3" + b"\0" * 9, b"PK\3\4" + b"\0" * 40):
        (tmp_path / "x.tflite").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.tflite: not a \.tflite file"):
            list(outside_files(tmp_path, "x.tflite"))


def test_a_session_needs_no_torch_and_writes_nothing_to_the_console(bundle):
    """In a process of its own, to its end."""
    code = f"""
import sys
from pathlib import Path
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.litert import engine
from himix_edge.runtimes.selftest import self_test
engine.SMALLEST, engine.STEPS = {litert_engine.SMALLEST}, {litert_engine.STEPS}
folder = Path(sys.argv[1])
assert self_test(folder, open_bundle(folder))["passed"]
print(sorted({{"torch", "onnx", "jax", "tensorflow"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_it_has_no_kernels_for_is_refused(tmp_path, tiny_checkpoint):
    request = ExportRequest(str(tiny_checkpoint), "litert", "int8", tmp_path / "out", int8_activations=False)
    with pytest.raises(InputError, match="no kernels for quantized weights with float activations"):
        export(plan(request))
    assert list(tmp_path.iterdir()) == []
