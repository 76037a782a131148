"""Published tasks read from made-up folders of their format, and what is said of broken ones."""

import io

import pytest
from PIL import Image

from himix_edge.errors import BackendMissing, InputError
from himix_edge.evaluation.asking import require_images
from himix_edge.evaluation.task import task_names
from himix_edge.preprocess import load_image
from tests.evaluation.task_folders import MAKERS, MMMU, OPEN, lines, read


def test_every_task_has_a_reading_test():
    assert task_names() == sorted(MAKERS)


@pytest.mark.parametrize(("name", "count", "prompt"), [
    ("vqav2", 2, "Is it red?\nAnswer the question using a single word or phrase."),
    ("gqa", 2, "Is it red?\nAnswer the question using a single word or phrase."),
    ("textvqa", 1, "Is it red?\nAnswer the question using a single word or phrase."),
    ("pope", 6, "Is it red?\nAnswer the question using a single word or phrase."),
    ("mme", 28, "Is it red?\nAnswer the question using a single word or phrase."),
    ("mmmu", 2, "What is in <image 1>?\nA. red\nB. the 'blue'\n"
                "Answer with the option's letter from the given choices directly."),
    ("mm-vet", 1, "Is it red?"),
    ("nlvr", 6, "It is red. Is that right? Answer yes or no."),
])  # fmt: skip
def test_reading(tmp_path, name, count, prompt):
    MAKERS[name](tmp_path)
    questions = read(name, tmp_path)
    require_images(questions)
    assert (len(questions), questions[0].prompt) == (count, prompt)
    assert len({question.id for question in questions}) == count or name == "pope"


def test_mmmu_lists_that_are_written_as_text(tmp_path):
    MAKERS["mmmu"](tmp_path)
    choice, free = read("mmmu", tmp_path)
    assert (choice.kind, choice.options, choice.answers) == ("Art_Theory", ("red", "the 'blue'"), ("A",))
    assert (free.kind, free.options, free.answers) == ("Math", (), ("4", "5"))
    assert free.prompt.endswith("\nAnswer the question using a single word or phrase.")


def test_mmmu_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    png = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(png, "PNG")
    rows = [
        {**MMMU, "image_1": {"bytes": png.getvalue(), "path": "1.png"}},
        {**OPEN, "image_1": {"bytes": b"broken", "path": "2.png"}},
    ]
    (tmp_path / "Math").mkdir()
    path = tmp_path / "Math/validation-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    first, second = read("mmmu", tmp_path)
    assert load_image(first.image, 2).tolist() == [[[[255, 0, 0]] * 2] * 2]
    with pytest.raises(InputError, match="row 1: image_1: not an image"):
        load_image(second.image, 2)
    parquet.write_table(pa.Table.from_pylist([{"id": "validation_Math_1"}]), path)
    with pytest.raises(InputError, match="no column 'question'"):
        read("mmmu", tmp_path)
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match="not a parquet file"):
        read("mmmu", tmp_path)


def test_mmmu_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "Math").mkdir()
    (tmp_path / "Math/validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(BackendMissing, match="pip install"):
        read("mmmu", tmp_path)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "mmmu"])
def test_a_missing_file_is_named_with_its_source(tmp_path, name):
    with pytest.raises(InputError, match=r"(no such file; it is part of|no questions \(.txt files\))") as caught:
        read(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "file", "content", "message"), [
    ("vqav2", "v2_mscoco_val2014_annotations.json", '{"annotations": []}', "no answers to question 1"),
    ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", '{"questions": [{"question_id": 1}]}', "image_id: Field"),
    ("vqav2", "v2_mscoco_val2014_annotations.json",
     '{"annotations": [{"question_id": 1, "answer_type": "other", "answers": [{"answer": "a"}]}]}', "at least 10"),
    ("gqa", "testdev_balanced_questions.json", "[" * 100_000, "not valid JSON"),
    ("gqa", "testdev_balanced_questions.json", "[]", "valid dictionary"),
    ("gqa", "testdev_balanced_questions.json",
     '{"7": {"imageId": "../x", "question": "", "answer": "", "types": {"structural": ""}}}', "question 7: .* leaves"),
    ("textvqa", "TextVQA_0.5.1_val.json",
     '{"data": [{"question_id": 5, "image_id": "a", "question": "?"}]}', "5: no answers"),
    ("pope", "coco_pope_random.json", '\n{"question_id": 1}\n', "line 2: image"),
    ("pope", "coco_pope_popular.json",
     '{"question_id": 1, "image": "a", "text": "?", "label": "maybe"}', "'yes' or 'no'"),
    ("mme", "position/0001.txt", "Is it? Yes\n", "two lines"),
    ("mme", "existence/0001.txt", "Is it?\tYes\nIs it?\tperhaps\n", "two lines"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "options": "[__import__('os')]"}), "options"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "image_1": None}), "no image_1"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "image_1": "/etc/passwd"}), "leaves"),
    ("mm-vet", "mm-vet.json", '{"v1_0": {"imagename": "/etc/passwd", "question": "?"}}', "v1_0: .* leaves"),
    ("nlvr", "dev/dev.json", '{"sentence": "a", "label": "yes"}', "'true' or 'false'"),
    ("nlvr", "dev/dev.json",
     lines({"sentence": "a", "label": "true", "identifier": "1", "directory": "../.."}), "leaves"),
])  # fmt: skip
def test_broken_files(tmp_path, name, file, content, message):
    MAKERS[name](tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
