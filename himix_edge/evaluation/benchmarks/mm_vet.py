"""MM-Vet (Yu et al., arXiv 2308.02490): open questions that need several capabilities, 218 in all.

Its judge is GPT-4 (github.com yuweihao/MM-Vet, mm-vet_evaluator); here the answers are written for it, without a score.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from himix_edge.evaluation.benchmark_files import image_inside, read_json
from himix_edge.evaluation.benchmarks import Benchmark, Question

SOURCE = "MM-Vet (github.com yuweihao/MM-Vet, mm-vet.zip)"


class _Question(BaseModel):
    imagename: str
    question: str


def read(folder: Path, split: str, images: Path | None) -> list[Question]:
    """mm-vet.json and images/."""
    path, images = folder / "mm-vet.json", images or folder / "images"
    return [
        Question(name, record.question, record.question, image_inside(images, record.imagename, f"{path}: {name}"))
        for name, record in read_json(path, TypeAdapter(dict[str, _Question]), SOURCE).items()
    ]


def write(questions: Sequence[Question], answers: Sequence[str]) -> str:
    """The judge's format."""
    return json.dumps({question.id: given for question, given in zip(questions, answers, strict=True)}, indent=2)


BENCHMARK = Benchmark(
    needs="mm-vet.json, images/",
    splits=("test",),
    max_new_tokens=1024,
    read=read,
    score=None,
    write=write,
)
