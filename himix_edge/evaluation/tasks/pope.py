"""POPE (Li et al., arXiv 2305.10355): is an object in the image? Absent ones drawn at random, popular, or adversarial.

The answer is read as by the official evaluate.py (github.com AoiDragon/POPE): the first sentence, without commas; a
word No, no or not makes it a no, anything else a yes. Where nothing is answered or expected yes, 0 stands for 0/0.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter

from himix_edge.data.image_files import image_inside
from himix_edge.evaluation.exact import interval
from himix_edge.evaluation.measures import Measure, mean, total
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion, yes_and_no
from himix_edge.evaluation.task_files import read_json_lines

SOURCE = "POPE (github.com AoiDragon/POPE, output/coco)"
CATEGORIES = ("random", "popular", "adversarial")


class _Record(BaseModel):
    question_id: int
    image: str
    text: str
    label: Literal["yes", "no"]


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """coco_pope_{random,popular,adversarial}.json and val2014/."""
    images = images or folder / "val2014"
    questions = []
    for category in CATEGORIES:
        path = folder / f"coco_pope_{category}.json"
        for record in read_json_lines(path, TypeAdapter(_Record), SOURCE):
            name = f"{category} {record.question_id}"
            image = image_inside(images, record.image, f"{path}: question {record.question_id}")
            questions.append(
                TaskQuestion(name, record.text, record.text + SHORT_ANSWER, image, (record.label,), kind=category)
            )
    return questions


def says_yes(given: str) -> bool:
    """Whether an answer counts as a yes."""
    words = given.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """F1 and accuracy, averaged over the categories; then each category's, with precision, recall and yes ratio."""
    judged = [(q.kind, says_yes(given), q.answers[0] == "yes") for q, given in zip(questions, answers, strict=True)]
    details: list[Measure] = []
    f1s, accuracies = [], []
    for category in dict.fromkeys(kind for kind, _, _ in judged):
        pairs = [(said, expected) for kind, said, expected in judged if kind == category]
        hits = [said for said, expected in pairs if expected]
        f1s.append(_f1(f"{category}: F1", pairs))
        accuracies.append(mean(f"{category}: accuracy", [said == expected for said, expected in pairs]))
        details += [
            f1s[-1],
            accuracies[-1],
            mean(f"{category}: precision", [expected for said, expected in pairs if said]),
            mean(f"{category}: recall", hits),
            mean(f"{category}: yes ratio", [said for said, _ in pairs]),
        ]
    return [total("F1", f1s, 1 / len(f1s)), total("accuracy", accuracies, 1 / len(accuracies)), *details]


def _f1(name: str, pairs: Sequence[tuple[bool, bool]]) -> Measure:
    """F1 is 2J / (1 + J) of the share J of hits among all that is said or expected to be there; so is its interval."""
    there = [said and expected for said, expected in pairs if said or expected]
    low, high = (2 * share / (1 + share) for share in interval(sum(there), len(there)))
    share = sum(there) / max(1, len(there))
    return Measure(name, 2 * share / (1 + share), len(pairs), (low, high))


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """One JSON record a line, as the official script reads them, and the category that its line belongs to."""
    return "".join(
        json.dumps({"question": q.text, "answer": given, "category": q.kind}) + "\n"
        for q, given in zip(questions, answers, strict=True)
    )


TASK = Task(
    needs="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, val2014/ (of COCO)",
    splits=("test",),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
    choices=yes_and_no,
)
