"""`himix eval --data-folder`, with a session that always says the same; at the end with nano."""

import json
from importlib import import_module

import pytest
from click.testing import CliRunner

from himix_edge.cli import himix
from himix_edge.errors import InputError
from himix_edge.evaluation.asking import answer_all
from himix_edge.preprocess import load_image
from himix_edge.runtimes.answer import Piece
from tests.evaluation.task_folders import MAKERS, read


class Parrot:
    """A session that answers everything alike and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.images, self.prompts = answer, [], []

    def encode_image(self, image, bits=32):
        self.images.append(image)
        return f"K/V of {image}"

    def chat(self, vision):
        assert vision == f"K/V of {self.images[-1]}"
        return self

    def send(self, prompt, max_new_tokens, temperature, structure):
        assert (temperature, structure) == (0, None)
        self.prompts.append(prompt)
        yield from (Piece(" " + self.answer[:1], 1), Piece(self.answer[1:] + "\n", 2))


def run(monkeypatch, session, *arguments):
    monkeypatch.setattr(import_module("himix_edge.cli.evaluate"), "_open", lambda *_: session)
    runner = CliRunner()
    result = runner.invoke(himix, ["eval", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(("name", "score", "value"), [
    ("vqav2", "accuracy", 1), ("gqa", "accuracy", 0.5), ("textvqa", "accuracy", 1),
    ("pope", "F1", pytest.approx(2 / 3)), ("mme", "perception", 500), ("mmmu", "accuracy", 0), ("nlvr", "accuracy", 1),
])  # fmt: skip
def test_the_command(tmp_path, monkeypatch, name, score, value):
    MAKERS[name](tmp_path)
    session = Parrot("Yes.")
    shown = run(monkeypatch, session, "--task", name, "--data-folder", tmp_path, "--json")
    result = json.loads(shown)
    assert result["asked"] == result["of"] == len(session.prompts)
    first = next(iter(result["scores"]))
    assert (first, result["scores"][first]["value"]) == (score, value)
    assert result["scores"][first]["interval"][0] <= result["scores"][first]["value"]
    assert name == "nlvr" or len(session.images) < len(session.prompts) or len(session.prompts) == 1
    assert score in run(monkeypatch, Parrot("Yes."), "--task", name, "--data-folder", tmp_path, "--limit", "2")


@pytest.mark.parametrize(("name", "written"), [
    ("gqa", '[{"questionId": "1", "prediction": "yes"}, {"questionId": "2", "prediction": "yes"}]'),
    ("textvqa", '[{"question_id": 3, "answer": "Yes."}]'),
    ("mm-vet", '{\n  "v1_0": "Yes."\n}'),
    ("mmmu", '{\n  "validation_Art_Theory_1": "",\n  "validation_Math_2": "Yes."\n}'),
    ("nlvr", "".join(f"dev-72-0-{k}.png,true\n" for k in range(6))),
])  # fmt: skip
def test_answer_files(tmp_path, monkeypatch, name, written):
    MAKERS[name](tmp_path)
    answers = tmp_path / f"answers-{name}"
    run(monkeypatch, Parrot("Yes."), "--task", name, "--data-folder", tmp_path, "--answers", answers)
    assert answers.read_text() == written


def test_answer_files_of_lines(tmp_path, monkeypatch):
    for name, expected in {
        "pope": {"question": "Is it red?", "answer": "No.\nSure", "category": "random"},
        "mme": "existence\t0001.png\tIs it red? Please answer yes or no.\tYes\tNo. Sure",
    }.items():
        MAKERS[name](tmp_path)
        answers = tmp_path / f"answers-{name}"
        run(monkeypatch, Parrot("No.\nSure"), "--task", name, "--data-folder", tmp_path, "--answers", answers)
        first = answers.read_text().splitlines()[0]
        assert (json.loads(first) if name == "pope" else first) == expected


def test_test_splits_have_no_score(tmp_path, monkeypatch):
    MAKERS["vqav2"](tmp_path, "test-dev2015")
    arguments = ["--task", "vqav2", "--data-folder", tmp_path, "--split", "test-dev"]
    with pytest.raises(InputError, match="scored elsewhere; give --answers"):
        run(monkeypatch, Parrot("Two."), *arguments)
    shown = run(monkeypatch, Parrot("Two."), *arguments, "--answers", tmp_path / "a.json", "--json")
    assert json.loads(shown)["scores"] == {}
    assert json.loads((tmp_path / "a.json").read_text()) == [{"question_id": i, "answer": "2"} for i in (1, 2)]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--task", "gqa"], "give --data-folder DIR with testdev_balanced_questions.json, images/"),
    (["--task", "gqa", "--data-folder", ".", "--split", "val"], "no split 'val'; it has testdev"),
    (["--task", "easy-vqa", "--data-folder", "."], "are for a --task of gqa"),
    (["--task", "mm-vet", "--data-folder", "."], "scored elsewhere"),
])  # fmt: skip
def test_mistakes(tmp_path, monkeypatch, arguments, message):
    MAKERS["mm-vet"](tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(monkeypatch, Parrot("Yes."), *arguments)


def test_a_missing_or_broken_image_is_told_with_its_question(tmp_path, monkeypatch):
    MAKERS["textvqa"](tmp_path)
    image = tmp_path / "train_images/ab.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    with pytest.raises(InputError, match=r"question 3: .*ab\.jpg: no such image; --image-folder"):
        run(monkeypatch, Parrot("Yes."), "--task", "textvqa", "--data-folder", tmp_path)
    session = Parrot("Yes.")
    session.encode_image = lambda image, bits: load_image(image, 4)
    image.write_text("no picture")
    with pytest.raises(InputError, match=r"question 3: .*not an image"):
        next(answer_all(session, read("textvqa", tmp_path), 8))


def test_nano_answers_a_task(tmp_path):
    MAKERS["gqa"](tmp_path)
    arguments = ["eval", "--task", "gqa", "--data-folder", str(tmp_path), "--limit", "1", "--json"]
    result = CliRunner().invoke(himix, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["asked"] == 1
