"""A published task: questions about images and how answers are scored, read from the user's own files.

Each is one file in `himix_edge.evaluation.tasks` with a `TASK`; the file's name is the task's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from himix_edge.evaluation import tasks
from himix_edge.evaluation.measures import Measure
from himix_edge.preprocess import Picture

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."  # LLaVA-1.5 (arXiv 2310.03744), section 3.2


@dataclass(frozen=True)
class TaskQuestion:
    """One question of a task.

    Attributes:
        id: as in the task's files.
        text: the task's own wording.
        prompt: what a model is asked.
        image: read when it is asked about.
        answers: what people answered, or the right answers; empty where the task keeps them to itself.
        kind: what scores are broken down by.
        group: questions that are judged together, where the task does so.
        options: of a multiple-choice question.
    """

    id: str
    text: str
    prompt: str
    image: Path | Picture
    answers: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """How one task is read, scored and written.

    Attributes:
        needs: the files of `--data-folder`, for people.
        splits: what --split takes; the first is the default.
        max_new_tokens: where an answer is cut.
        read: (data folder, split, folder of the images or None for its usual place) -> questions, in the files' order.
            Raises InputError for a missing file and a record that is not in the format.
        score: (questions, answers) -> measures, the one that is quoted first. None: an external judge scores.
        write: (questions, answers) -> the text of the file that the task's server, judge or script takes.
        choices: question -> the answers that a model may be held to, of which `--likelihood` takes the likeliest; none
            where the answer is open. None: all of the task's are.
    """

    needs: str
    splits: tuple[str, ...]
    max_new_tokens: int
    read: Callable[[Path, str, Path | None], list[TaskQuestion]]
    score: Callable[[Sequence[TaskQuestion], Sequence[str]], list[Measure]] | None
    write: Callable[[Sequence[TaskQuestion], Sequence[str]], str]
    choices: Callable[[TaskQuestion], tuple[str, ...]] | None = None


def yes_and_no(_: TaskQuestion) -> tuple[str, ...]:
    """The choices of a task that asks for one of these two."""
    return "Yes", "No"


def task_names() -> list[str]:
    """Every published task of this installation."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(tasks.__path__))


def find_task(name: str) -> Task:
    """The task called `name`, one of `task_names()`."""
    task: Task = import_module(f"{tasks.__name__}.{name.replace('-', '_')}").TASK
    return task
