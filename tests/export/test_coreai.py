"""Core AI: what is in its folders, and what Apple's own runtime for Linux makes of them."""

import numpy as np
import pytest
import torch

from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export.graphs import share_weights
from himix_edge.export.pipeline import PROBE, ExportRequest, export, plan
from himix_edge.export.stored_weights import compare
from himix_edge.export.targets.coreai.target import _in
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.coreai import RUNTIME
from himix_edge.runtimes.coreai.engine import CoreAiEngine
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.registry import all_runtimes
from himix_edge.runtimes.verifying import open_verified
from tests.conftest import FEW


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("coreai") / "bundle"
    return export(plan(ExportRequest(str(tiny_checkpoint), "coreai", "int4", out, probe_questions=FEW)))


@pytest.fixture(scope="module")
def onnx_bundle(tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("coreai") / "onnx"
    return export(plan(ExportRequest(str(tiny_checkpoint), "onnx", "int4", out, probe_questions=FEW)))


def test_it_is_beta_and_not_what_all_means():
    assert "beta" in RUNTIME.title
    assert "coreai" not in [runtime.name for runtime in all_runtimes() if runtime.in_all]


def test_the_gate_compared_float32_tightly_and_asked_the_shipped_files_a_few(bundle):
    stages = {result.stage: result for result in bundle.manifest.parity if result.role == "decoder"}
    assert stages["packed"].limit <= 2e-4
    assert all(result.passed for result in bundle.manifest.parity)
    asked = [result.metric for result in bundle.manifest.parity if result.role == "end to end"]
    assert "equal of all 2" in asked


def test_its_integers_are_onnx_s(bundle, onnx_bundle):
    found = compare([open_verified(each.folder) for each in (bundle, onnx_bundle)])
    assert all(comparison.passed for comparison in found)
    assert {comparison.tensors for comparison in found} == {len(bundle.manifest.weights)}


def test_a_conversation_s_logits_are_onnx_s(bundle, onnx_bundle):
    """The state is the caller's: an image's keys go in, a prompt and a token go behind them, another image replaces."""
    found = []
    rng = np.random.default_rng(0)
    config = bundle.config
    shape = (config.num_vision_rows, config.decoder.num_key_value_heads, 5, config.decoder.head_dim)
    key, value = rng.normal(size=(2, *shape)).astype(np.float32)
    for each in (bundle, onnx_bundle):
        engine = load_engine(each)
        rows = []
        for _ in range(2):
            engine.start(key, value, 0)
            rows += [engine.step(np.array([5, 6, 7], np.int64)), engine.step(np.array([8], np.int64))]
        found.append(np.stack(rows))
    assert np.allclose(found[0][:2], found[0][2:], atol=1e-3)
    assert np.sqrt(np.mean((found[0] - found[1]) ** 2)) < 0.1 * found[1].std()


def test_a_folder_in_the_place_of_another_is_named(bundle):
    files = {
        "vision_encoder": bundle.role_path("vision_injector"),
        "vision_injector": bundle.role_path("vision_encoder"),
    }
    with pytest.raises(InputError, match="of the manifest's model takes") as refused:
        load_engine(bundle, role_files=files)
    assert str(files["vision_encoder"].parent) in str(refused.value)


def test_states_of_another_capacity_are_named(bundle):
    files = {role: bundle.role_path(role) for role in bundle.manifest.roles}
    with pytest.raises(InputError, match=r"state key_cache is \(2, 2, 96, 16\), the manifest says \(2, 2, 512, 16\)"):
        CoreAiEngine(files, bundle.config, 500)


def test_converting_to_float16_leaves_what_is_shared_as_it_is(tiny):
    table = tiny.model.embed_tokens.weight
    copied = _in(share_weights(tiny), torch.float16)
    assert copied.model.embed_tokens.weight.dtype == torch.float16
    assert tiny.model.embed_tokens.weight is table
    assert table.dtype == torch.float32


@pytest.mark.slow
def test_the_shipped_model_answers_as_in_onnx(tmp_path, nano_bundles):
    """Slow: adds nano in float16, seconds a token in Apple's reference runtime."""
    out = tmp_path / "nano"
    export(plan(ExportRequest("nano", "coreai", "int4", out)))
    with open_bundle(out) as session, open_bundle(nano_bundles["int4"]) as other:
        for sample in load_llava(PROBE).samples[:3]:
            prompt = sample.conversations[0][0].question
            assert session.answer(prompt, sample.image) == other.answer(prompt, sample.image)
