"""Qwen3 and Mistral through the gate: norms per head in front of every target's fused attention."""

import dataclasses

import numpy as np
import pytest
import torch

from himix_edge.checkpoints import save_checkpoint
from himix_edge.checkpoints.assemble import assemble, model_weights
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.quantization.smoothing import largest_inputs, smooth
from himix_edge.export.targets import target_names
from himix_edge.model import build_model
from himix_edge.runtimes import open_bundle
from tests.conftest import QUICK, TINY

LAYERS = 1
HEAD = 32  # not hidden_size / heads; ONNX Runtime's attention takes multiples of 16


def model_of(family, architecture="himix"):
    """TINY as another family's, whose norms have weights of their own."""
    decoder = dataclasses.replace(TINY.decoder, model_type=family, head_dim=HEAD, num_hidden_layers=LAYERS)
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(TINY, architecture=architecture, decoder=decoder)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "layernorm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, text):
    """Saved random models."""
    folder = tmp_path_factory.mktemp("families")
    for family, architecture in (("qwen3", "himix"), ("qwen3", "vanilla"), ("mistral", "himix")):
        save_checkpoint(folder / f"{family}-{architecture}", model_of(family, architecture), text)
    return folder


def exported(checkpoint, target, precision, out, rounding="nearest"):
    """A bundle that passed the gate."""
    request = ExportRequest(str(checkpoint), target, precision, out, rounding=rounding, probe_questions=8)
    return export(plan(request))


@pytest.mark.parametrize("target", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in target_names()
])  # fmt: skip
def test_qwen3_in_every_target(target, checkpoints, tmp_path):
    """The gate judges logits and reads the integers back. Slow: adds the targets that take long to export."""
    exported(checkpoints / "qwen3-himix", target, "int4", tmp_path / "bundle")


@pytest.mark.parametrize(("name", "precision"), [
    pytest.param("qwen3-himix", "none", marks=pytest.mark.slow), ("qwen3-vanilla", "none"), ("qwen3-vanilla", "int8"),
    ("mistral-himix", "int4"),
])  # fmt: skip
def test_the_others_in_onnx(name, precision, checkpoints, tmp_path):
    """Slow: adds HiMix in float, which int4 stands for."""
    bundle = exported(checkpoints / name, "onnx", precision, tmp_path / "bundle")
    assert bundle.manifest.selftest.decisive == (precision == "none"), "int8 activations may change random answers"


def test_attention_is_normed_behind_the_joint_projection(checkpoints, tmp_path):
    """One matmul makes query, key and value; the operator gets them apart, each norm is one operator."""
    import onnx

    bundle = exported(checkpoints / "qwen3-himix", "onnx", "int4", tmp_path / "bundle", rounding="tuned")
    nodes = onnx.load(bundle.role_path("decoder")).graph.node
    assert all(all(node.input[:3]) for node in nodes if node.op_type == "GroupQueryAttention")
    assert bundle.manifest.quantization.method == "gptq, tuned scales and norms"


def test_openvino_fuses_norms_and_rotary_embeddings(checkpoints, tmp_path):
    bundle = exported(checkpoints / "qwen3-himix", "openvino", "none", tmp_path / "bundle")
    types = open_bundle(bundle.folder).engine.layer_types
    assert (types["PagedAttention"], types["RoPE"], types["RMS"]) == (LAYERS, 2 * LAYERS, 4 * LAYERS + 1)


def test_smoothing_leaves_what_it_computes():
    """The channels' factors pass the projections and are gone in front of the heads' norms."""
    model, ids = model_of("qwen3"), torch.randint(400, (2, 16))
    smoothed = assemble(model.config, smooth(model_weights(model), largest_inputs(model, ids)), "smoothed")
    assert not torch.equal(smoothed.state_dict()["model.layers.0.input_layernorm.weight"],
                           model.state_dict()["model.layers.0.input_layernorm.weight"])  # fmt: skip
    np.testing.assert_allclose(smoothed(ids), model(ids), rtol=0, atol=2e-5)
