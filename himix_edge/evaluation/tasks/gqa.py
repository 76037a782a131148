"""GQA (Hudson and Manning, arXiv 1902.09506): compositional questions about images, the balanced test-dev split.

An answer is right if it is the expected one, letter for letter (the official eval.py); before, it is put in lower case
and loses its final periods, as in LLaVA-1.5 (convert_gqa_for_eval.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter

from himix_edge.data.image_files import image_inside
from himix_edge.evaluation.measures import Measure, mean, means_by
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion
from himix_edge.evaluation.task_files import read_json

SOURCE = "GQA (cs.stanford.edu/people/dorarad/gqa, download)"


class _Types(BaseModel):
    structural: str


class _Record(BaseModel):
    image_id: str = Field(alias="imageId")
    question: str
    answer: str
    types: _Types


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """testdev_balanced_questions.json and images/."""
    images = images or folder / "images"
    path = folder / "testdev_balanced_questions.json"
    records = read_json(path, TypeAdapter(dict[str, _Record]), SOURCE)
    return [
        TaskQuestion(
            name,
            record.question,
            record.question + SHORT_ANSWER,
            image_inside(images, f"{record.image_id}.jpg", f"{path}: question {name}"),
            (record.answer,),
            record.types.structural,
        )
        for name, record in records.items()
    ]


def prediction(given: str) -> str:
    """An answer as it is compared."""
    return given.rstrip(".").lower()


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Accuracy over all, of binary and open questions, and by structural type."""
    right = [float(prediction(given) == q.answers[0]) for q, given in zip(questions, answers, strict=True)]
    kinds = [question.kind for question in questions]
    binary = ["open" if kind == "query" else "binary" for kind in kinds]
    return [mean("accuracy", right), *means_by(binary, right), *means_by(kinds, right)]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The official eval.py's format."""
    pairs = zip(questions, answers, strict=True)
    return json.dumps([{"questionId": q.id, "prediction": prediction(given)} for q, given in pairs])


TASK = Task(
    needs="testdev_balanced_questions.json, images/",
    splits=("testdev",),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
)
