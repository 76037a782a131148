"""NLVR (Suhr et al., ACL 2017): is a sentence that a person wrote true of an image with three boxes of shapes?

Six images, which differ in the order of their boxes, belong to each record. Scored as the official metrics_images.py
(github.com lil-lab/nlvr) does: accuracy over images (called precision there), and consistency, the share of sentences
that are judged right for all of their images. An answer is read as in MME.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter

from himix_edge.data.image_files import image_inside
from himix_edge.evaluation.measures import Measure, mean, means_by
from himix_edge.evaluation.task import Task, TaskQuestion, yes_and_no
from himix_edge.evaluation.task_files import read_json_lines
from himix_edge.evaluation.tasks.mme import yes_or_no

SOURCE = "NLVR (github.com lil-lab/nlvr, nlvr/)"
PROMPT = "{}. Is that right? Answer yes or no."
IMAGES_OF_A_RECORD = 6
TRUTH = {"yes": "true", "no": "false"}


class _Record(BaseModel):
    sentence: str
    label: Literal["true", "false"]
    identifier: str
    directory: str


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """dev/dev.json and dev/images/, and so on for the other splits."""
    path, images = folder / split / f"{split}.json", images or folder / split / "images"
    questions = []
    for record in read_json_lines(path, TypeAdapter(_Record), SOURCE):
        prompt = PROMPT.format(record.sentence.strip().rstrip("."))
        sentence = record.identifier.split("-")[0]
        for k in range(IMAGES_OF_A_RECORD):
            name = f"{split}-{record.identifier}-{k}.png"
            image = image_inside(images, f"{record.directory}/{name}", f"{path}: {record.identifier}")
            questions.append(
                TaskQuestion(name, record.sentence, prompt, image, (record.label,), record.label, sentence)
            )
    return questions


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Accuracy over images, consistency over sentences, and accuracy on true and on false sentences."""
    right = [TRUTH.get(yes_or_no(given)) == q.answers[0] for q, given in zip(questions, answers, strict=True)]
    of_sentence: dict[str, list[bool]] = defaultdict(list)
    for question, value in zip(questions, right, strict=True):
        of_sentence[question.group].append(value)
    return [
        mean("accuracy", right),
        mean("consistency", [all(values) for values in of_sentence.values()]),
        *means_by([question.kind for question in questions], right),
    ]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The official script's lines of image and true or false."""
    pairs = zip(questions, answers, strict=True)
    return "".join(f"{question.id},{TRUTH.get(yes_or_no(given), 'other')}\n" for question, given in pairs)


TASK = Task(
    needs="dev/dev.json, dev/images/; or test/, train/",
    splits=("dev", "test", "train"),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
    choices=yes_and_no,
)
