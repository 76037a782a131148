"""MM-Vet (Yu et al., arXiv 2308.02490): open questions that need several capabilities, 218 in all.

Its judge is GPT-4 (github.com yuweihao/MM-Vet, mm-vet_evaluator); here the answers are written for it, without a score.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from himix_edge.data.image_files import image_inside
from himix_edge.evaluation.task import Task, TaskQuestion
from himix_edge.evaluation.task_files import read_json

SOURCE = "MM-Vet (github.com yuweihao/MM-Vet, mm-vet.zip)"


class _Record(BaseModel):
    imagename: str
    question: str


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """mm-vet.json and images/."""
    path, images = folder / "mm-vet.json", images or folder / "images"
    return [
        TaskQuestion(name, record.question, record.question, image_inside(images, record.imagename, f"{path}: {name}"))
        for name, record in read_json(path, TypeAdapter(dict[str, _Record]), SOURCE).items()
    ]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The judge's format."""
    return json.dumps({question.id: given for question, given in zip(questions, answers, strict=True)}, indent=2)


TASK = Task(
    needs="mm-vet.json, images/",
    splits=("test",),
    max_new_tokens=1024,
    read=read,
    score=None,
    write=write,
)
