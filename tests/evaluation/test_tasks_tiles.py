"""`himix eval` of every task with models whose pictures are tiles in their text: as checkpoints and as bundles."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from himix_edge.cli import himix
from himix_edge.evaluation.asking import answer_all
from himix_edge.evaluation.task import find_task
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.runtimes import open_bundle, open_checkpoint, session
from tests.checkpoints.test_vlm import idefics3, internvl, llava, made
from tests.evaluation.task_folders import MAKERS, read


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return made(idefics3, tmp_path_factory.mktemp("tiles") / "tiny").folder


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    """In float, so that it answers as the checkpoint."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export(plan(ExportRequest(str(checkpoint), "onnx", "none", out, probe_questions=1)))
    return out


def evaluated(*arguments):
    result = CliRunner().invoke(himix, ["eval", *map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", MAKERS)
def test_every_task_asks_about_tiles(name, checkpoint, tmp_path, monkeypatch):
    """Each with its own prompt, a picture cut once for the questions about it."""
    MAKERS[name](tmp_path)
    cut, sent = [], []
    load_tiles, send = session.load_tiles, session.Chat.send

    def counted(image, *settings):
        cut.append(image)
        return load_tiles(image, *settings)

    def heard(chat, prompt, max_new_tokens, **settings):
        sent.append(prompt)
        (image,) = chat._images
        assert image.tokens > 4, "the tiles' keys and values"
        return send(chat, prompt, min(max_new_tokens, 4), **settings)

    monkeypatch.setattr(session, "load_tiles", counted)
    monkeypatch.setattr(session.Chat, "send", heard)
    answers = tmp_path / "answers"
    found = evaluated("--model", checkpoint, "--task", name, "--data-folder", tmp_path, "--answers", answers)
    questions = read(name, tmp_path)
    assert sent == [question.prompt for question in questions]
    images = [question.image for question in questions]
    assert cut == [image for before, image in zip([None, *images], images, strict=False) if image != before]
    assert found["asked"] == found["of"] == len(questions)
    assert answers.read_text()
    for scores in found["scores"].values():
        assert scores["interval"][0] <= scores["value"] <= scores["interval"][1]


@pytest.mark.parametrize("family", [internvl, llava], ids=lambda family: family.__name__)
def test_other_layouts_too(family, tmp_path):
    folder = made(family, tmp_path / "tiny").folder
    MAKERS["pope"](tmp_path / "pope")
    found = evaluated("--model", folder, "--task", "pope", "--data-folder", tmp_path / "pope", "--limit", "3")
    assert found["asked"] == 3


def test_a_float_bundle_answers_as_its_checkpoint(checkpoint, bundle, tmp_path):
    MAKERS["gqa"](tmp_path)
    questions, count = read("gqa", tmp_path), find_task("gqa").max_new_tokens
    expected = list(answer_all(open_checkpoint(checkpoint), questions, count))
    assert any(expected)
    assert list(answer_all(open_bundle(bundle), questions, count)) == expected
    found = [evaluated(*of, "--task", "gqa", "--data-folder", tmp_path)["scores"]
             for of in (("--bundle", bundle), ("--model", checkpoint))]  # fmt: skip
    assert found[0] == found[1]


def test_texts_and_conversations_too(checkpoint, tmp_path):
    """Perplexity needs no picture; a LLaVA-format file is asked turn by turn."""
    words = tmp_path / "words.txt"
    words.write_text("There is a red circle, and a blue square beside it.")
    assert evaluated("--model", checkpoint, "--text", words)["perplexity"] > 1
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    turns = [{"from": speaker, "value": value} for speaker, value in
             (("human", "<image>\nWhat?"), ("gpt", "red"), ("human", "Why?"), ("gpt", "so"))]  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]))
    found = evaluated("--model", checkpoint, "--task", tmp_path / "mine.json", "--image-folder", tmp_path)
    assert found["asked"] == 2
