"""Adapters on one exported base: what peft computes, in every runtime, swapped and taken off."""

import dataclasses

import numpy as np
import pytest
import torch

from himix_edge.adapter_file import Adapter
from himix_edge.checkpoints import save_checkpoint
from himix_edge.config import Injection
from himix_edge.errors import InputError
from himix_edge.export.graphs import quiet
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.export.quantization.tensors import quantize
from himix_edge.export.targets.executorch.target import _trace
from himix_edge.export.traces import distance
from himix_edge.manifest import read_manifest
from himix_edge.model import build_model
from himix_edge.runtimes import ImageKV, SessionPool, open_bundle, open_checkpoint
from himix_edge.runtimes.adapter import AdapterRoom
from himix_edge.runtimes.engine import CannotFork
from himix_edge.runtimes.pool import adapted_pool
from himix_edge.runtimes.sampling import log_probability
from tests.adapters.conftest import MOST
from tests.conftest import TINY

TARGETS = ("onnx", "openvino", pytest.param("executorch", marks=pytest.mark.slow))
IDS = [5, 17, 300, 2]


def logits(session, pixels):
    """Of a prompt behind a picture, and of one token more."""
    engine = session.engine
    key, value = engine.inject(engine.encode(pixels))
    engine.start(key, value, 0)
    return np.stack([engine.step(np.array(IDS, np.int64)), engine.step(np.array([7], np.int64))])


def reference(model, pixels):
    made = model(torch.tensor([[*IDS, 7]]), pixel_values=torch.from_numpy(pixels))
    return made[0, -2:].numpy()


@pytest.mark.parametrize("target", TARGETS)
def test_it_computes_what_peft_does_and_taken_off_the_base(
    target, bundles, adapted, adapter_file, text_adapter_file, tiny_checkpoint, pixels
):
    session = open_bundle(bundles[target])
    base = logits(session, pixels)
    assert distance(logits(open_checkpoint(tiny_checkpoint), pixels), base) < 2e-5
    for model, file in ((adapted[0], adapter_file), (text_adapter_file[0], text_adapter_file[2])):
        expected = reference(model, pixels)
        assert distance(expected, base) > 0.1  # it says something else
        session.use_adapter(file)
        assert distance(expected, logits(session, pixels)) < 2e-5
    session.use_adapter(None)
    assert np.array_equal(logits(session, pixels), base)


def test_unmerged_and_merged_peft_are_one(adapted, pixels, tiny_checkpoint):
    """What the bundles are compared with is peft's unmerged forward pass; here is its own merge."""
    expected = reference(adapted[0], pixels)
    adapted[0].merge_adapter()
    try:
        assert distance(expected, reference(adapted[0], pixels)) < 2e-5
    finally:
        adapted[0].unmerge_adapter()


def test_places_for_adapters_change_no_bit_of_an_int8_bundle(tmp_path, tiny_bundle, tiny_checkpoint, pixels):
    request = ExportRequest(str(tiny_checkpoint), "onnx", "int8", tmp_path / "b", probe_questions=2, adapter_rank=MOST)
    bundle = export(plan(request))
    stages = {result.stage for result in bundle.manifest.parity}
    assert {"adapter", "adapter, as it ships"} <= stages
    assert bundle.manifest.image_kv_id == open_bundle(tiny_bundle).model_id
    assert np.array_equal(logits(open_bundle(bundle.folder), pixels), logits(open_bundle(tiny_bundle), pixels))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "executorch"])
def test_the_gate_passes_with_int4_weights_of_a_smoothed_model(tmp_path, target, tiny_checkpoint):
    """What the fast tests show of float and of int8 in ONNX, for 4-bit weights in the other two runtimes."""
    request = ExportRequest(str(tiny_checkpoint), target, "int4", tmp_path / "b", probe_questions=2, adapter_rank=MOST)
    found = [result for result in export(plan(request)).manifest.parity if result.stage.startswith("adapter")]
    assert {result.role for result in found} >= {"decoder", "vision_injector: key", "taken off"}


OTHERS = {
    "vanilla": dataclasses.replace(TINY, architecture="vanilla"),
    "uniform": dataclasses.replace(TINY, injection=Injection(sharing="uniform")),
    "mixing": dataclasses.replace(TINY, injection=Injection(positions="sequence", mixing=1, slots=True)),
    "some layers": dataclasses.replace(TINY, injection=Injection(layers=(1,))),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
@pytest.mark.parametrize("kind", list(OTHERS))
def test_the_gate_passes_with_other_ways_to_let_the_image_in(tmp_path, text, kind, target):
    """The fast tests have the paper's HiMix alone; its gate compares a random adapter as theirs does."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model", build_model(OTHERS[kind]), text)
    request = ExportRequest(str(tmp_path / "model"), target, "none", tmp_path / "b", probe_questions=2, adapter_rank=2)
    bundle = export(plan(request))
    worst = [r.value for r in bundle.manifest.parity if r.stage == "adapter" and r.metric == "max diff / std"]
    assert max(worst) < 1e-4


def test_executorchs_modules_compute_what_peft_does(adapted, adapter_file, source, bundles, pixels):
    """The methods as they are traced, in PyTorch: lowering them takes a minute, see the slow tests."""
    room = AdapterRoom(MOST, read_manifest(bundles["onnx"]).adapters.base, {}, TINY, "traced")
    _, factors = room.open(adapter_file)
    given = {role: [torch.from_numpy(tensor) for tensor in tensors.values()] for role, tensors in factors.items()}
    with quiet(), torch.no_grad():
        programs = _trace(quantize(source, POLICIES["none"]), 64, MOST)
        features = adapted[0].encode_image(torch.from_numpy(pixels))
        key, value = programs["vision_injector"].module()([features], given["vision_injector"])
        expected = adapted[0].base_model.model.project_image(features)
        assert distance(torch.cat([row for row, _ in expected]).numpy(), key.numpy()) < 2e-5
        assert distance(torch.cat([row for _, row in expected]).numpy(), value.numpy()) < 2e-5
        ids, places = torch.tensor([IDS]), torch.arange(len(IDS))[None]
        decoder = programs["decoder"].module()
        found = decoder([ids, torch.tensor([0]), places], given["decoder"])
        assert distance(adapted[0](ids)[:, -1].numpy(), found.numpy()) < 2e-5


def test_an_adapters_image_is_not_anothers(bundles, adapter_file, text_adapter_file, probe_image, tmp_path):
    session = open_bundle(bundles["onnx"])
    plain = session.encode_image(probe_image)
    session.use_adapter(text_adapter_file[2])
    assert session.model_id == plain.model_id  # images pass by it
    session.answer("what is it?", plain)
    session.use_adapter(adapter_file)
    with pytest.raises(InputError, match="under another adapter"):
        session.answer("what is it?", plain)
    own = session.encode_image(probe_image)
    assert not np.array_equal(own.key, plain.key)
    own.save(tmp_path / "own.kv")
    assert session.answer("what is it?", ImageKV.load(tmp_path / "own.kv")) == session.answer("what is it?", own)
    session.use_adapter(None)
    with pytest.raises(InputError, match="under another adapter"):
        session.answer("what is it?", own)
    assert session.answer("what is it?", plain)


def test_a_chat_goes_on_under_another_adapter_as_if_it_had_always_been(bundles, adapter_file, probe_image):
    session, fresh = open_bundle(bundles["onnx"]), open_bundle(bundles["onnx"], adapter=adapter_file)
    chat = session.chat(probe_image)
    list(chat.send("what is it?", max_new_tokens=1))
    ids, pending = list(chat._history), list(chat._pending)
    session.use_adapter(adapter_file)
    found = list(chat.send("and now?", max_new_tokens=4))
    assert session.stats.cached_tokens == 0
    vision = fresh.encode_image(probe_image)
    fresh.engine.start(vision.key, vision.value, 0)
    new = pending + fresh.text.encode_next_turn("and now?")
    logits = fresh.engine.step(np.array(ids + new, np.int64))
    assert found[0].token_id == int(logits.argmax())
    assert found[0].log_probability == pytest.approx(log_probability(logits, found[0].token_id), abs=1e-4)


def test_an_answer_ends_where_the_adapter_is_changed(bundles, adapter_file, text_adapter_file):
    session = open_bundle(bundles["onnx"])
    answer = session.generate("what is it?", max_new_tokens=8)
    next(answer)
    session.use_adapter(text_adapter_file[2])
    with pytest.raises(InputError, match="adapter was changed"):
        list(answer)
    assert session.answer("what is it?") != ""


def test_forks_have_adapters_of_their_own(bundles, adapter_file, text_adapter_file, pixels):
    for target in ("onnx", "openvino"):
        session = open_bundle(bundles[target], adapter=adapter_file)
        other = session.fork()
        assert other.adapter is session.adapter
        assert other.model_id == session.model_id
        expected = logits(session, pixels)
        assert np.array_equal(logits(other, pixels), expected)
        other.use_adapter(text_adapter_file[2])
        assert not np.array_equal(logits(other, pixels), expected)
        assert np.array_equal(logits(session, pixels), expected)


def test_a_pool_of_an_adapters_own_shares_or_opens_the_weights(bundles, adapter_file, pixels, monkeypatch):
    pool, opened = SessionPool([open_bundle(bundles["onnx"])]), []

    def again():
        opened.append(open_bundle(bundles["onnx"]))
        return opened[0]

    shared = adapted_pool(pool, adapter_file, again)
    assert not opened

    def cannot(engine):
        raise CannotFork("one cache")

    monkeypatch.setattr("himix_edge.runtimes.session.forked", cannot)
    own = adapted_pool(pool, adapter_file, again)
    assert list(own.sessions) == opened
    expected = logits(shared.sessions[0], pixels)
    assert np.array_equal(logits(own.sessions[0], pixels), expected)
    assert not np.array_equal(logits(pool.sessions[0], pixels), expected)


def test_who_takes_none_says_so(tiny_bundle, tiny_checkpoint, adapter_file, bundles):
    with pytest.raises(InputError, match="takes no adapters; export the model again with --adapter-rank"):
        open_bundle(tiny_bundle, adapter=adapter_file)
    with pytest.raises(InputError, match="not opened from a bundle"):
        open_checkpoint(tiny_checkpoint).use_adapter(adapter_file)
    open_bundle(tiny_bundle).use_adapter(None)  # nothing is nothing
    session = open_bundle(bundles["onnx"])
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.use_adapter(adapter_file)
    for target in ("onnx_portable", "litert", "coreml", "onnx_qnn"):
        with pytest.raises(InputError, match=f"bundles for {target} take no adapters; .*executorch.*--adapter FOLDER"):
            plan(ExportRequest(str(tiny_checkpoint), target, "none", "x", adapter_rank=4))


def test_an_opened_adapter_is_used_again(bundles, adapter_file, pixels):
    opened = Adapter.load(adapter_file, TINY)
    found = []
    for target in ("onnx", "openvino"):
        session = open_bundle(bundles[target])
        session.use_adapter(opened)
        found.append(logits(session, pixels))
    assert distance(*found) < 2e-5
