"""TextVQA 0.5.1 (Singh et al., arXiv 1904.08920; textvqa.org): questions about the text in images.

Scored as in M4C and LLaVA-1.5 (github.com facebookresearch/mmf, TextVQAAccuracyEvaluator): every answer through
EvalAI's processor, then the agreement with ten people. The model gets the question alone; LLaVA-1.5's published numbers
are with OCR tokens in the prompt.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter

from himix_edge.data.image_files import image_inside
from himix_edge.errors import InputError
from himix_edge.evaluation.measures import Measure, mean
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion
from himix_edge.evaluation.task_files import read_json, refuse_twice
from himix_edge.evaluation.vqa_answers import agreement, evalai_normalize

SOURCE = "TextVQA 0.5.1 (textvqa.org, dataset)"


class _Record(BaseModel):
    question_id: int
    image_id: str
    question: str
    answers: list[str] | None = Field(default=None, min_length=10, max_length=10)


class _Records(BaseModel):
    data: list[_Record]


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """TextVQA_0.5.1_val.json and train_images/; the test split has no answers and test_images/."""
    images = images or folder / ("test_images" if split == "test" else "train_images")
    path = folder / f"TextVQA_0.5.1_{split}.json"
    questions = []
    asked = read_json(path, TypeAdapter(_Records), SOURCE).data
    refuse_twice([str(record.question_id) for record in asked], str(path))
    for record in asked:
        where = f"{path}: question {record.question_id}"
        if split == "val" and record.answers is None:
            raise InputError(f"{where}: no answers; there must be ten")
        image = image_inside(images, f"{record.image_id}.jpg", where)
        prompt = record.question + SHORT_ANSWER
        answers = tuple(record.answers or ())
        questions.append(TaskQuestion(str(record.question_id), record.question, prompt, image, answers))
    return questions


def accuracy(given: str, people: Sequence[str]) -> float:
    """0 to 1: how well an answer agrees with ten people's."""
    return agreement(evalai_normalize(given), [evalai_normalize(answer) for answer in people])


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Accuracy."""
    return [mean("accuracy", [accuracy(given, q.answers) for q, given in zip(questions, answers, strict=True)])]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The evaluation server's format."""
    pairs = zip(questions, answers, strict=True)
    return json.dumps([{"question_id": int(question.id), "answer": given} for question, given in pairs])


TASK = Task(
    needs="TextVQA_0.5.1_val.json, train_images/",
    splits=("val", "test"),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
)
