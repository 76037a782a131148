"""`himix batch`: order, resuming after a kill, workers, pictures that are read once, and what is refused."""

import json
import os
import shutil

import pytest

from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.evaluation.batch import (
    BatchQuestion,
    BatchSettings,
    Opening,
    answer_batch,
    answer_group,
    read_questions,
)
from himix_edge.export.pipeline import PROBE
from himix_edge.runtimes import Structure, open_bundle
from himix_edge.staging import staging
from tests.commands import himix

PROMPTS = ("what is it?", "is it red?", "how many?")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with three pictures and a file of ten questions about them, mixed."""
    folder = tmp_path_factory.mktemp("batch")
    images = list(dict.fromkeys(sample.image for sample in load_llava(PROBE).samples))[:3]
    for number, image in enumerate(images):
        shutil.copy(image, folder / f"{number}.png")
    lines = [
        {"prompt": prompt, "image": f"{number}.png", "id": f"{number}-{prompt}"}
        for prompt in PROMPTS
        for number in range(3)
    ]
    lines.append({"prompt": "hello", "id": 10})
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder / "q.jsonl"


@pytest.fixture(scope="module")
def expected(tiny_bundle, asked):
    session = open_bundle(tiny_bundle)
    return [session.answer(q.prompt, q.images, 6) for q in read_questions(asked)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(asked, bundle, out, workers=1, stop_after=None, settings=None):
    """The answers, or what it was killed by behind so many of them."""

    def counted(made, total):
        for number, item in enumerate(made):
            if number == stop_after:
                raise KeyboardInterrupt
            yield item

    questions = read_questions(asked)
    with staging(out, resumable=True) as place:
        opening = bundle if isinstance(bundle, Opening) else Opening(bundle)
        return answer_batch(questions, settings or BatchSettings(6, 0.0), opening, place, out, workers, counted)


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_are_the_sessions_in_the_order_of_the_questions(asked, tiny_bundle, expected, tmp_path, workers):
    done = himix("batch", asked, "--bundle", tiny_bundle, "--out", tmp_path / "a.jsonl", "--workers", workers,
                 "--max-new-tokens", 6, "--temperature", 0, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "a.jsonl")
    assert [line["answer"] for line in found] == expected
    assert [line["id"] for line in found] == [question.id for question in read_questions(asked)]
    assert json.loads(done.stdout)["questions"] == 10
    assert all(0 <= line["probability"] <= 1 and line["finish_reason"] in ("stop", "length") for line in found)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_killed_run_is_gone_on_with(asked, tiny_bundle, expected, tmp_path):
    out = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(asked, tiny_bundle, out, stop_after=4)
    part = tmp_path / ".a.jsonl.himix" / "new" / "answers.jsonl"
    assert not out.exists()
    kept = len(part.read_bytes().splitlines())
    assert 4 <= kept <= 5
    with part.open("ab") as file:
        file.write(b'{"id": "cut o')
    counts = []
    questions = read_questions(asked)
    with staging(out, resumable=True) as place:
        answer_batch(questions, BatchSettings(6, 0.0), Opening(tiny_bundle), place, out, 1,
                     lambda made, total: counts.append(total) or made)  # fmt: skip
    assert counts == [10 - kept]
    assert [line["answer"] for line in lines(out)] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_other_questions_or_settings_begin_anew(asked, tiny_bundle, tmp_path):
    out = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(asked, tiny_bundle, out, stop_after=4)
    run(asked, tiny_bundle, out, settings=BatchSettings(1, 0.0))
    assert {line["new_tokens"] for line in lines(out)} <= {0, 1}


def test_a_picture_is_read_once(asked, tiny_bundle, monkeypatch):
    session, encoded = open_bundle(tiny_bundle), []
    encode = session.engine.encode
    monkeypatch.setattr(session.engine, "encode", lambda pixels: (encoded.append(1), encode(pixels))[1])
    image = read_questions(asked)[0].images
    group = [BatchQuestion(number, prompt, image) for number, prompt in enumerate(PROMPTS)]
    assert len(list(answer_group(session, group, BatchSettings(2)))) == 3
    assert len(encoded) == 1


def test_pictures_are_kept_in_the_bits_that_were_asked_for(asked, tiny_bundle, tmp_path, monkeypatch):
    session, used = open_bundle(tiny_bundle), []
    start = session.engine.start
    monkeypatch.setattr(session.engine, "start", lambda key, *rest: (used.append(key), start(key, *rest))[1])
    image = read_questions(asked)[0].images
    list(answer_group(session, [BatchQuestion(1, "what is it?", image)], BatchSettings(2, image_bits=8)))
    assert (used[0] == session.encode_images(image, 8).key).all()
    assert not (used[0] == session.encode_images(image).key).all()
    done = himix("batch", asked, "--bundle", tiny_bundle, "--out", tmp_path / "a.jsonl", "--image-bits", 8)
    assert done.returncode == 0, done.stderr


def test_a_question_without_an_answer_is_told_and_asked_again(asked, tiny_bundle, tmp_path):
    rows = [{"prompt": "hello"}, {"prompt": ""}, {"prompt": "word " * 500}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = himix("batch", tmp_path / "q.jsonl", "--bundle", tiny_bundle, "--out", tmp_path / "a.jsonl")
    assert done.returncode == 2
    assert "2 of 3 questions have no answer; the first, 2" in done.stderr
    found = lines(tmp_path / "a.jsonl")
    assert ["answer" in line for line in found] == [True, False, False]
    assert "empty" in found[1]["error"]
    again = himix("batch", tmp_path / "q.jsonl", "--bundle", tiny_bundle, "--out", tmp_path / "a.jsonl")
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_choices_hold_for_every_answer(asked, tiny_bundle, tmp_path):
    settings = BatchSettings(20, 0.0, structure=Structure.choices(["yes", "no"]))
    assert {line["answer"] for line in run(asked, tiny_bundle, tmp_path / "a.jsonl", settings=settings)} <= {
        "yes",
        "no",
    }


@pytest.mark.parametrize(("content", "message"), [
    ("", "no questions"), ("{", "line 1: not valid JSON"), ('{"prompt": 1}', "line 1: prompt"), ("[]", "line 1"),
    ('{"prompt": "a"}\n{"question": "b"}', "line 2: prompt"), ('{"prompt": "a", "text": "b"}', "text: Extra"),
    ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}', "line 2: id 1 stands there twice"),
    ('{"prompt": "a", "image": "none.png"}', "no such image"), ('{"prompt": "a", "image": "../x"}', "leaves"),
    ('{"prompt": "a", "image": "/etc/passwd"}', "leaves"),
])  # fmt: skip
def test_bad_files_are_one_line(content, message, tmp_path):
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.jsonl")


class Ends(Opening):
    """A model that is too large."""

    def __call__(self):
        os._exit(9)


@pytest.mark.slow
def test_workers_that_end_or_cannot_open_are_told(asked, tiny_bundle, tmp_path):
    """Slow: adds processes that die, or have nothing to work with."""
    with pytest.raises(InputError, match="a worker ended"):
        run(asked, Ends(tiny_bundle), tmp_path / "a.jsonl", workers=2)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    shutil.copy(tiny_bundle / "manifest.json", damaged)
    with pytest.raises(InputError, match="missing"):
        run(asked, damaged, tmp_path / "a.jsonl", workers=2)
    with pytest.raises(InputError, match="no such file"):
        run(asked, tmp_path / "none", tmp_path / "a.jsonl")
