"""Published benchmarks, read from the user's own files. One file each with a `BENCHMARK`; the file's name finds it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from himix_edge.evaluation.measures import Measure
from himix_edge.preprocess import Picture

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."  # LLaVA-1.5 (arXiv 2310.03744), section 3.2


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: as in the benchmark's files.
        text: the benchmark's own wording.
        prompt: what a model is asked.
        image: read when it is asked about.
        answers: what people answered, or the right answers; empty where the benchmark keeps them to itself.
        kind: what scores are broken down by.
        group: questions that are judged together, where the benchmark does so.
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
class Benchmark:
    """How one benchmark is read, scored and written.

    Attributes:
        needs: the files of `--data-folder`, for people.
        splits: what --split takes; the first is the default.
        max_new_tokens: where an answer is cut.
        read: (data folder, split, folder of the images or None for its usual place) -> questions, in the files' order.
            Raises InputError for a missing file and a record that is not in the format.
        score: (questions, answers) -> measures, the one that is quoted first. None: an external judge scores.
        write: (questions, answers) -> the text of the file that the benchmark's server, judge or script takes.
    """

    needs: str
    splits: tuple[str, ...]
    max_new_tokens: int
    read: Callable[[Path, str, Path | None], list[Question]]
    score: Callable[[Sequence[Question], Sequence[str]], list[Measure]] | None
    write: Callable[[Sequence[Question], Sequence[str]], str]


def benchmark_names() -> list[str]:
    """Every benchmark of this installation."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`, one of `benchmark_names()`."""
    benchmark: Benchmark = import_module(f"{__name__}.{name.replace('-', '_')}").BENCHMARK
    return benchmark
