"""Programs in the operators of OpenVINO's converter: the same results, and no second trace."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from himix_edge.data.llava import load_llava
from himix_edge.export.graphs import FixedImageRope
from himix_edge.export.pipeline import PROBE, ExportRequest, export, plan
from himix_edge.export.targets.openvino import operators
from himix_edge.export.targets.openvino.operators import decompose
from himix_edge.model.mixer import ImageRope, Mixer
from himix_edge.runtimes import open_bundle
from tests.conftest import TINY

DYNAMIC = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}


class Program(nn.Module):
    """Every operator that is replaced, on sizes that are numbers and on sizes that are symbols."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(8)

    def forward(self, x, image):
        first, second = self.norm(x).chunk(2, dim=-1)
        heads = torch.cat([second, first], dim=-1).double().float().unflatten(-1, (2, 4)).transpose(1, 2)
        seen = F.conv2d(image, self.convolution.weight)  # with its defaults
        return heads.flatten(0, 1), heads.transpose(1, 2).flatten(2), self.convolution(image).flatten(1), seen.flatten()


def test_the_converter_computes_the_same():
    openvino = pytest.importorskip("openvino")
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    torch.manual_seed(0)
    program, image = Program(), torch.rand(1, 3, 6, 6)
    traced = torch.export.export(program, (torch.rand(2, 3, 8), image), dynamic_shapes=(DYNAMIC, None))
    spelled = decompose(traced.module(check_guards=False))
    left = {str(node.target) for node in spelled.graph.nodes if node.op == "call_function"}
    assert not left & {f"aten.{name}" for name in (
        "conv2d.default", "layer_norm.default", "chunk.default", "flatten.using_ints", "unflatten.int", "to.dtype",
        "_assert_tensor_metadata.default",
    )}  # fmt: skip
    graph = openvino.convert_model(TorchFXPythonDecoder(spelled, dynamic_shapes=True))
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in ((2, 3, 8), (5, 7, 8)):
        x = torch.rand(shape)
        found = compiled([x.numpy(), image.numpy()])
        with torch.no_grad():
            for number, expected in enumerate(program(x, image)):
                torch.testing.assert_close(torch.from_numpy(found[number]), expected, rtol=1e-4, atol=1e-4)


def test_attention_of_as_many_tokens_as_heads_is_not_mistaken():
    """Four heads: OpenVINO 2026.4 by itself is off by as much as the outputs deviate."""
    openvino = pytest.importorskip("openvino")
    from himix_edge.runtimes.openvino.engine import UNFUSED, image_settings

    torch.manual_seed(0)
    mixer = Mixer(TINY.decoder, 1).eval().requires_grad_(False)
    mixed = nn.ModuleDict({"mixer": mixer})
    for tokens in (3, 4):
        mixed["rope"] = rope = FixedImageRope(ImageRope(TINY.decoder), tokens)
        mixed.forward = lambda x, rope=rope: mixer(x, rope(x.shape[1], x.device))[0]
        x = torch.randn(1, tokens, TINY.decoder.hidden_size)
        graph = openvino.convert_model(torch.export.export(mixed, (x,)))
        settings = image_settings(graph)
        assert (settings.items() >= UNFUSED.items()) == (tokens == 4)
    found = openvino.compile_model(graph, "CPU", settings)([x.numpy()])[0]
    torch.testing.assert_close(torch.from_numpy(found), mixed(x), rtol=1e-4, atol=1e-4)


def assert_nanos_answers(bundle):
    session = open_bundle(bundle.folder)
    for sample in load_llava(PROBE).samples[:3]:
        ((turn,),) = sample.conversations
        assert session.answer(turn.question, sample.image) == turn.answer


@pytest.mark.slow
def test_nano_is_not_traced_twice(tmp_path, monkeypatch):
    """Slow: adds to the single operators that all of nano's are known."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)  # calling it is a TypeError
    made = export(
        plan(ExportRequest("nano", "openvino", "int4", tmp_path / "bundle", probe_questions=1, rounding="nearest"))
    )
    assert_nanos_answers(made)


@pytest.mark.slow
def test_an_operator_of_others_is_left_to_the_converter(tmp_path, monkeypatch):
    """Slow: adds the converter's own way for whatever is not known here."""
    pytest.importorskip("openvino")
    asked = []
    monkeypatch.setattr(operators, "_replacement", lambda node, sizes: asked.append(node.target))
    assert_nanos_answers(
        export(plan(ExportRequest("nano", "openvino", "none", tmp_path / "bundle", probe_questions=1)))
    )
    assert torch.ops.aten.layer_norm.default in asked
