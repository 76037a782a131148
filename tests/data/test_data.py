"""Datasets: easy-VQA as published, LLaVA's format, and files that break it."""

import json
import os

import pytest

from himix_edge.data import load_dataset
from himix_edge.data.dataset import LazySamples, Sample, Turn
from himix_edge.data.easy_vqa import with_phrasings
from himix_edge.data.image_files import image_inside, is_file
from himix_edge.errors import InputError


@pytest.mark.parametrize(("split", "images", "questions"), [("train", 4000, 38575), ("test", 1000, 9673)])
def test_easy_vqa_has_its_published_size(split, images, questions):
    dataset = load_dataset("easy-vqa", split)
    assert (len(dataset.samples), dataset.questions) == (images, questions)


def test_phrasings_keep_every_question_and_answer():
    dataset = load_dataset("easy-vqa", "train")
    phrased = with_phrasings(dataset, seed=0)
    assert with_phrasings(dataset, seed=0) == phrased
    for before, after in zip(dataset.samples, phrased.samples, strict=True):
        for (a,), (b,) in zip(before.conversations, after.conversations, strict=False):
            assert (a.question.rstrip("?"), a.answer) == (b.question.lower().rstrip("?"), b.answer)
    captions = {t.answer for s in phrased.samples for (t,) in s.conversations if t.answer.startswith("a ")}
    assert len(captions) == 24  # 8 colors x 3 shapes


def write(folder, records):
    (folder / "data.json").write_text(json.dumps(records))
    return str(folder / "data.json")


def record(value="<image>\nwhat is it?", image="a/b.png", speaker="human"):
    return {"id": "1", "image": image, "conversations": [
        {"from": speaker, "value": value}, {"from": "gpt", "value": " a circle "},
        {"from": "human", "value": "sure?"}, {"from": "gpt", "value": "yes"}]}  # fmt: skip


def test_llava_json(tmp_path):
    dataset = load_dataset(write(tmp_path, [record(), {"conversations": record()["conversations"]}]))
    image, no_image = dataset.samples
    assert image.image == tmp_path / "a/b.png"
    assert no_image.image is None
    assert [(t.question, t.answer) for t in image.conversations[0]] == [("what is it?", "a circle"), ("sure?", "yes")]
    elsewhere = load_dataset(write(tmp_path, [record()]), image_folder=tmp_path / "images")
    assert elsewhere.samples[0].image == tmp_path / "images/a/b.png"


@pytest.mark.parametrize(("records", "message"), [
    ([record(image="../../etc/passwd")], "record 0: image .* leaves"),
    ([record(), record(image="/etc/passwd")], "record 1: image .* leaves"),
    ([record(speaker="gpt")], "alternate"),
    ([{"conversations": []}], "alternate"),
    ([{"image": "a.png"}], "conversations"),
    ([{"conversations": [{"from": "human"}]}], "value"),
    ({"conversations": []}, "list"),
    ([], "no records"),
])  # fmt: skip
def test_broken_llava_json(tmp_path, records, message):
    with pytest.raises(InputError, match=message):
        load_dataset(write(tmp_path, records))


def test_unreadable_files_and_unknown_names(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name, message in [
        ("cifar", "unknown dataset"),
        (str(tmp_path / "bad.json"), "JSON"),
        ("none.json", "no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            load_dataset(name)
    with pytest.raises(InputError, match="split"):
        load_dataset("easy-vqa", "validation")


@pytest.mark.parametrize(("content", "message"), [
    ('[{"image": "a\\u0000b", "conversations": %s}]', "record 0: image .* is no name of a file"),
    ('[{"image": "\\ud800", "conversations": %s}]', "half a character"),
    ('[{"image": ".", "conversations": %s}]', "leaves the image folder"),
    ('[{"image": 3, "conversations": %s}]', "record 0.image: Input should be a valid string"),
    ('[{"image": "a", "image": "b", "conversations": %s}]', "'image' stands twice"),
    ('[{"score": NaN, "conversations": %s}]', "NaN is no JSON number"),
    ('[{"conversations": [{"from": "human", "value": "\\ud800"}, {"from": "gpt", "value": "a"}]}]', "half a character"),
])  # fmt: skip
def test_hostile_llava_json(tmp_path, content, message):
    turns = '[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]'
    path = tmp_path / "data.json"
    path.write_text(content.replace("%s", turns))
    with pytest.raises(InputError, match=message):
        load_dataset(str(path))


def test_links_may_not_lead_out_of_the_image_folder(tmp_path):
    inside, circle = tmp_path / "images", tmp_path / "images" / "circle"
    inside.mkdir()
    (tmp_path / "other.png").touch()
    (inside / "link.png").symlink_to(tmp_path / "other.png")
    circle.symlink_to(circle)
    for name, message in (("link.png", "leaves the image folder"), ("circle/x", "no name of a file")):
        with pytest.raises(InputError, match=message):
            image_inside(inside, name, "record 7")


def test_only_a_regular_file_is_an_image(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert [is_file(tmp_path / name) for name in ("file", "pipe", "", "none", "a\0b", "x" * 300, "\ud800")] == [
        True, *[False] * 6,
    ]  # fmt: skip


def test_lazy_samples_are_a_sequence():
    samples = LazySamples(lambda i: Sample(None, ((Turn(str(i), ""),),)), range(5))
    numbers = [sample.conversations[0][0].question for sample in samples[1:]]
    assert numbers == ["1", "2", "3", "4"]
    assert samples[-1].conversations[0][0].question == "4"
    assert len(samples[:99]) == 5
