"""MME (Fu et al., arXiv 2306.13394): two yes/no questions about each image, in 14 subtasks.

Scored as the official calculation.py does: a subtask's score is accuracy plus accuracy+ (both questions of an image
right), each times 100; perception is the sum of ten of them (at most 2000), cognition of four (at most 800).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from himix_edge.data.image_files import is_file
from himix_edge.errors import InputError
from himix_edge.evaluation.measures import Measure, mean, total
from himix_edge.evaluation.perplexity import read_text
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion, yes_and_no

SOURCE = "MME_Benchmark_release_version (github.com BradyFU/Awesome-Multimodal-Large-Language-Models)"
SUBTASKS = {
    "perception": (
        "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}  # fmt: skip
REQUEST = "Please answer yes or no."  # LLaVA-1.5 asks for a word or phrase instead


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """A folder for each subtask: images beside texts of two lines, or images/ and questions_answers_YN/."""
    questions: list[TaskQuestion] = []
    for subtask in [name for names in SUBTASKS.values() for name in names]:
        place = folder / subtask
        texts = place / "questions_answers_YN"
        paths = sorted((texts if texts.is_dir() else place).glob("*.txt"))
        if not paths:
            raise InputError(f"{place}: no questions (.txt files); {SOURCE} has a folder for each of its 14 subtasks")
        pictures = (images or folder) / subtask
        pictures = pictures / "images" if (pictures / "images").is_dir() else pictures
        for path in paths:
            questions += _of_image(path, pictures, subtask)
    return questions


def _of_image(path: Path, pictures: Path, subtask: str) -> list[TaskQuestion]:
    lines = [line.strip().split("\t") for line in read_text(path).splitlines() if line.strip()]
    if len(lines) != 2 or any(len(line) != 2 or line[1].strip().lower() not in {"yes", "no"} for line in lines):
        raise InputError(f"{path}: must be two lines of a question, a tab, and Yes or No")
    found = [pictures / f"{path.stem}{ending}" for ending in (".jpg", ".png", ".jpeg")]
    image = next((candidate for candidate in found if is_file(candidate)), found[0])
    return [
        TaskQuestion(
            f"{subtask}/{image.name} {number}",
            text,
            text.replace(REQUEST, "").strip() + SHORT_ANSWER,
            image,
            (answer.strip(),),
            kind=subtask,
            group=image.name,
        )
        for number, (text, answer) in enumerate(lines, 1)
    ]


def yes_or_no(given: str) -> str:
    """yes or no, if one of them is among the first four letters (yes is looked for first), or "other"."""
    start = given.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Perception, cognition, and each subtask (at most 200). Images asked about only once do not count."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for question, given in zip(questions, answers, strict=True):
        right[question.kind][question.group].append(yes_or_no(given) == question.answers[0].lower())
    measures: dict[str, Measure] = {}
    for subtask, images in right.items():
        both = [sum(pair) for pair in images.values() if len(pair) == 2]
        if both:
            measures[subtask] = mean(subtask, [(count / 2 + (count == 2)) / 2 for count in both], scale=200)
    sums = []
    for name, subtasks in SUBTASKS.items():
        parts = [measures[subtask] for subtask in subtasks if subtask in measures]
        if parts:
            part = "" if len(parts) == len(subtasks) else f", {len(parts)} of {len(subtasks)} subtasks"
            sums.append(total(name + part, parts))
    return [*sums, *measures.values()]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """Lines of subtask, image, question, answer and what was answered; without its first field, a line is MME's own."""
    return "".join(
        "\t".join((q.kind, q.group, q.text, q.answers[0], " ".join(given.split()))) + "\n"
        for q, given in zip(questions, answers, strict=True)
    )


TASK = Task(
    needs="a folder for each of the 14 subtasks (existence/ ... code_reasoning/)",
    splits=("test",),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
    choices=yes_and_no,
)
