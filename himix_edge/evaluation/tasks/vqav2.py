"""VQAv2 (Goyal et al., arXiv 1612.00837; visualqa.org): open questions about COCO images, ten people's answers each.

Scored as the official script does (github.com GT-Vision-Lab/VQA, vqaEval.py), after the answer went through EvalAI's
processor, as LLaVA-1.5 submits it: where all ten people agree, the official script compares without normalising.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter

from himix_edge.errors import InputError
from himix_edge.evaluation.measures import Measure, mean, means_by
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion
from himix_edge.evaluation.task_files import read_json, refuse_twice
from himix_edge.evaluation.vqa_answers import agreement, evalai_normalize, one_line, vqa_normalize

SOURCE = "VQAv2 (visualqa.org, download)"
SPLITS = {  # in the files' names; and of the images
    "val": ("val2014", "val2014"),
    "test-dev": ("test-dev2015", "test2015"),
    "test": ("test2015", "test2015"),
    "train": ("train2014", "train2014"),
}
ANSWERED = ("val", "train")


class _Record(BaseModel):
    question_id: int
    image_id: int = Field(ge=0, lt=10**12)  # as the images' names have it
    question: str


class _Records(BaseModel):
    questions: list[_Record]


class _Answer(BaseModel):
    answer: str


class _Annotation(BaseModel):
    question_id: int
    answer_type: str
    answers: list[_Answer] = Field(min_length=10, max_length=10)


class _Annotations(BaseModel):
    annotations: list[_Annotation]


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json, and images in val2014/ and so on."""
    name, image_split = SPLITS[split]
    images = images or folder / image_split
    asked = read_json(folder / f"v2_OpenEnded_mscoco_{name}_questions.json", TypeAdapter(_Records), SOURCE).questions
    refuse_twice([str(record.question_id) for record in asked], name)
    annotated: dict[int, _Annotation] = {}
    path = folder / f"v2_mscoco_{name}_annotations.json"
    if split in ANSWERED:
        annotations = read_json(path, TypeAdapter(_Annotations), SOURCE).annotations
        refuse_twice([str(annotation.question_id) for annotation in annotations], str(path))
        annotated = {annotation.question_id: annotation for annotation in annotations}
    questions = []
    for record in asked:
        annotation = annotated.get(record.question_id)
        if split in ANSWERED and annotation is None:
            raise InputError(f"{path}: no answers to question {record.question_id}")
        questions.append(
            TaskQuestion(
                str(record.question_id),
                record.question,
                record.question + SHORT_ANSWER,
                images / f"COCO_{image_split}_{record.image_id:012d}.jpg",
                tuple(answer.answer for answer in annotation.answers) if annotation else (),
                annotation.answer_type if annotation else "",
            )
        )
    return questions


def accuracy(given: str, people: Sequence[str]) -> float:
    """0 to 1: how well an answer agrees with ten people's, as vqaEval.py computes it."""
    given, people = one_line(given), [one_line(answer) for answer in people]
    if len(set(people)) > 1:
        given, people = vqa_normalize(given), [vqa_normalize(answer) for answer in people]
    return agreement(given, people)


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Accuracy over all, and by answer type (yes/no, number, other)."""
    pairs = zip(questions, answers, strict=True)
    scores = [accuracy(evalai_normalize(given), question.answers) for question, given in pairs]
    return [mean("accuracy", scores), *means_by([question.kind for question in questions], scores)]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The evaluation server's format."""
    pairs = zip(questions, answers, strict=True)
    return json.dumps([{"question_id": int(q.id), "answer": evalai_normalize(given)} for q, given in pairs])


TASK = Task(
    needs="v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, val2014/",
    splits=tuple(SPLITS),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
)
