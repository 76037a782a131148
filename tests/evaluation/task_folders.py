"""A folder in each task's format, with two or so questions and one picture."""

import json

from PIL import Image

from himix_edge.evaluation.task import find_task
from himix_edge.evaluation.tasks import mme, pope


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def make_vqav2(folder, split="val2014"):
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")
    picture(folder / "test2015/COCO_test2015_000000000042.jpg")
    asked = [{"question_id": i, "image_id": 42, "question": "Is it red?"} for i in (1, 2)]
    (folder / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": asked}))
    annotations = [
        {"question_id": i, "answer_type": "yes/no", "answers": [{"answer": "yes", "answer_id": k} for k in range(10)]}
        for i in (1, 2)
    ]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))


def make_gqa(folder):
    picture(folder / "images/n1.jpg")
    record = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps({"1": record, "2": {**record, "answer": "no"}}))


def make_textvqa(folder):
    picture(folder / "train_images/ab.jpg")
    record = {"question_id": 3, "image_id": "ab", "question": "Is it red?", "answers": ["yes"] * 10}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [record]}))


def make_pope(folder):
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")
    record = {"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "Is it red?", "label": "yes"}
    for category in pope.CATEGORIES:
        (folder / f"coco_pope_{category}.json").write_text(lines(record, {**record, "label": "no"}))


def make_mme(folder):
    for index, subtask in enumerate([name for names in mme.SUBTASKS.values() for name in names]):
        texts, images = ("questions_answers_YN", "images") if index % 2 else ("", "")
        picture(folder / subtask / images / "0001.png")
        (folder / subtask / texts).mkdir(exist_ok=True)
        (folder / subtask / texts / "0001.txt").write_text(
            "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
        )


MMMU = {
    "id": "validation_Art_Theory_1", "question": "What is in <image 1>?", "options": "['red', \"the 'blue'\"]",
    "answer": "A", "question_type": "multiple-choice", "image_1": "1.png",
}  # fmt: skip
OPEN = {**MMMU, "id": "validation_Math_2", "question_type": "open", "options": "[]", "answer": "['4', '5']"}


def make_mmmu(folder):
    picture(folder / "images/1.png")
    (folder / "validation.jsonl").write_text(lines(MMMU, OPEN))


def make_mm_vet(folder):
    picture(folder / "images/v1_0.png")
    (folder / "mm-vet.json").write_text(json.dumps({"v1_0": {"imagename": "v1_0.png", "question": "Is it red?"}}))


def make_nlvr(folder):
    for k in range(6):
        picture(folder / f"dev/images/2/dev-72-0-{k}.png")
    record = {"sentence": "It is red.", "label": "true", "identifier": "72-0", "directory": "2"}
    (folder / "dev/dev.json").write_text(lines(record))


MAKERS = {
    "vqav2": make_vqav2, "gqa": make_gqa, "textvqa": make_textvqa, "pope": make_pope, "mme": make_mme,
    "mmmu": make_mmmu, "mm-vet": make_mm_vet, "nlvr": make_nlvr,
}  # fmt: skip


def read(name, folder, split=None):
    task = find_task(name)
    return task.read(folder, split or task.splits[0], None)
