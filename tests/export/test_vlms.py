"""Vision-language models of other people's in every target: their own classes' greedy tokens from a bundle."""

import json

import numpy as np
import pytest
import torch

from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.targets import find_target, target_names
from himix_edge.manifest import MANIFEST
from himix_edge.runtimes import open_bundle, open_checkpoint
from himix_edge.runtimes.selftest import self_test
from tests.checkpoints.test_vlm import FAMILIES, asked, made, picture, set_right, smolvlm
from tests.checkpoints.test_vlm_goldens import TOKENS, tiny_fastvit, written
from tests.golden.vlm.making import Golden
from tests.golden.vlm.making import picture as drawn

USED_HERE = (set_right, tiny_fastvit)  # fixtures of every test
PICTURES = [picture(150, 33), picture(40, 30)]
QUESTIONS = ("What is this?", "And why?")


def exported(folder, target, precision, out, **more):
    request = ExportRequest(str(folder), target, precision, out, probe_questions=4, **more)
    return export(plan(request)).folder


def answers(session, given):
    """Token ids of 32 greedy steps for each question."""
    said = [session.generate(words, given, max_new_tokens=32, temperature=0) for words in QUESTIONS]
    return [[piece.token_id for piece in pieces if piece.token_id is not None] for pieces in said]


def expected(theirs, session, pictures):
    found = []
    for words in QUESTIONS:
        inputs = theirs.inputs(asked(pictures, words), pictures)
        tokens = theirs.greedy(inputs, 32)
        ends = [i for i, token in enumerate(tokens) if token in session.text.stop_ids]
        found.append(tokens[: ends[0]] if ends else tokens)
    return found


def as_close_as_float16(theirs, pictures, words, told, said):
    """Whether two answers are the same, up to a token whose logit is as good as the best one's in float16."""
    same = [a == b for a, b in zip(told, said, strict=False)]
    if all(same):
        return len(told) == len(said)
    inputs = theirs.inputs(asked(pictures, words), pictures)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([told[: same.index(False)]])], dim=1)
    with torch.no_grad():
        logits = theirs.model(**inputs).logits[0, -1]
    return bool(logits.max() - logits[said[same.index(False)]] < 0.02 * logits.std())


@pytest.mark.parametrize(("family", "target"), [
    pytest.param(family, target, marks=() if family is smolvlm and target == "onnx" else pytest.mark.slow)
    for family in FAMILIES for target in target_names()
])  # fmt: skip
def test_a_float_bundle_says_what_their_class_says(family, target, tmp_path):
    """One picture, two, and none; read, and kept for the next question. Slow: adds the other families and targets."""
    theirs = made(family, tmp_path)
    session = open_bundle(exported(tmp_path, target, "none", tmp_path / "bundle"))
    half = find_target(target).activations == "float16"
    for pictures in (PICTURES[:1], PICTURES, []):
        told = expected(theirs, session, pictures)
        said = answers(session, pictures)
        if half:
            assert all(as_close_as_float16(theirs, pictures, *case) for case in zip(QUESTIONS, told, said, strict=True))
        else:
            assert said == told
        if pictures:
            assert answers(session, session.encode_images(pictures)) == said
    assert self_test(tmp_path / "bundle", session)["passed"]


@pytest.mark.parametrize(("target", "precision"), [
    pytest.param(name, bits, marks=() if (name, bits) == ("onnx", "int4") else pytest.mark.slow)
    for name in target_names() for bits in ("int8", "int4")
])  # fmt: skip
def test_integers_pass_the_gate(target, precision, tmp_path):
    """Tower, connector and decoder are calibrated and read back. Slow: adds the other targets and int8."""
    made(smolvlm, tmp_path)
    folder = exported(tmp_path, target, precision, tmp_path / "bundle")
    assert len(answers(open_bundle(folder), PICTURES)) == len(QUESTIONS)
    manifest = json.loads((folder / MANIFEST).read_text())
    for layout in (manifest["preprocessing"]["layout"], manifest["model"]["images"]):
        layout["slot_id"] = 5
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="'<image>' is not token 5"):
        open_bundle(folder)


def test_too_few_slots_are_found_before_any_work(tmp_path):
    made(smolvlm, tmp_path)
    with pytest.raises(InputError, match=r"capacity 20: the gate's picture .* raise --capacity"):
        plan(ExportRequest(str(tmp_path), "onnx", "none", tmp_path / "bundle", capacity=20))


def test_a_picture_read_in_pieces_is_the_same(tmp_path, monkeypatch):
    from himix_edge.runtimes import pictures

    made(smolvlm, tmp_path)
    session = open_checkpoint(tmp_path)
    whole = session.encode_images(PICTURES)
    monkeypatch.setattr(pictures, "AT_ONCE", 7)
    parts = session.encode_images(PICTURES)
    np.testing.assert_allclose(parts.key, whole.key, atol=1e-5)
    np.testing.assert_allclose(parts.value, whole.value, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [
    (name, target) for name in TOKENS for target in target_names() if target != "onnx"  # which has no heads of 8
])  # fmt: skip
def test_an_authors_layout_says_what_its_authors_code_said(name, target, tmp_path):
    """Slow: adds what transformers has no class for."""
    golden = Golden.load(name)
    session = open_bundle(exported(written(golden, tmp_path / name), target, "none", tmp_path / "bundle"))
    for question in golden.questions:
        chat = session.chat([drawn(*shape) for shape in question.shapes], question.system or None)
        said = [piece.token_id for piece in chat.send(question.words, max_new_tokens=32, temperature=0)]
        said = [token for token in said if token is not None]
        ends = [i for i, token in enumerate(question.tokens) if token in session.text.stop_ids]
        told = question.tokens[: ends[0]] if ends else question.tokens
        assert said[:1] == told[:1] if find_target(target).activations == "float16" else said == told
