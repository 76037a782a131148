"""MMMU (Yue et al., arXiv 2311.16502): college-level questions of 30 subjects with images, most multiple-choice.

Answers are read and judged as by the official eval_utils.py (github.com MMMU-Benchmark/MMMU), with one difference:
where no option can be read from an answer it picks one at random, here the answer is wrong (the share of those is
reported; the official score is higher by about a quarter of it). Every question is asked with its first image only.
"""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from himix_edge.data.image_files import image_inside, is_file
from himix_edge.errors import InputError
from himix_edge.evaluation.measures import Measure, mean, means_by
from himix_edge.evaluation.parquet import parquet_records
from himix_edge.evaluation.task import SHORT_ANSWER, Task, TaskQuestion
from himix_edge.evaluation.task_files import read_json_lines, refuse_twice
from himix_edge.preprocess import Picture

SOURCE = "MMMU (mmmu-benchmark.github.io)"
CHOOSE = "\nAnswer with the option's letter from the given choices directly."  # LLaVA-1.5
DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine":
        "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering":
        "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
        "Mechanical_Engineering",
}  # fmt: skip
DISCIPLINE_OF = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects.split()}
MAX_LIST = 1 << 16  # characters of a list as Python prints it
LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def _written_list(value: object) -> object:
    """The data set writes a list as Python would print it."""
    if isinstance(value, str) and value.startswith("[") and len(value) <= MAX_LIST:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


class _Record(BaseModel):
    id: str = Field(pattern=r"^[a-z]+_\w+_\d+$")
    question: str
    options: Annotated[list[str], BeforeValidator(_written_list), Field(max_length=26)]
    answer: Annotated[str | list[str], BeforeValidator(_written_list)]
    question_type: str
    image_1: str | None = None


def read(folder: Path, split: str, images: Path | None) -> list[TaskQuestion]:
    """SUBJECT/SPLIT-*.parquet as published; or SPLIT.jsonl, with the names of images in images/ as image_1."""
    lines = folder / f"{split}.jsonl"
    parquets = sorted(folder.glob(f"*/{split}-*.parquet"))
    if parquets and not is_file(lines):
        columns = [name for name in _Record.model_fields if name != "image_1"]
        found = [row for path in parquets for row in parquet_records(path, columns, TypeAdapter(_Record), "image_1")]
        refuse_twice([record.id for record, _ in found], str(folder))
        return [_question(record, image) for record, image in found]
    if not is_file(lines):
        raise InputError(f"{folder}: neither {split}.jsonl nor SUBJECT/{split}-*.parquet; they are part of {SOURCE}")
    images = images or folder / "images"
    questions = []
    records = read_json_lines(lines, TypeAdapter(_Record), SOURCE)
    refuse_twice([record.id for record in records], str(lines))
    for record in records:
        if record.image_1 is None:
            raise InputError(f"{lines}: {record.id}: no image_1; it must name the question's first image")
        questions.append(_question(record, image_inside(images, record.image_1, f"{lines}: {record.id}")))
    return questions


def _question(record: _Record, image: Path | Picture) -> TaskQuestion:
    options = tuple(record.options) if record.question_type == "multiple-choice" else ()
    lines = [f"{letter}. {option}" for letter, option in _lettered(options).items()]
    prompt = "\n".join([record.question, *lines]) + (CHOOSE if options else SHORT_ANSWER)
    answers = (record.answer,) if isinstance(record.answer, str) else tuple(record.answer)
    known = () if answers == ("?",) else answers  # the test split keeps its answers
    subject = record.id.split("_", 1)[1].rsplit("_", 1)[0]
    return TaskQuestion(record.id, record.question, prompt, image, known, subject, options=options)


def _lettered(options: Sequence[str]) -> dict[str, str]:
    return {chr(ord("A") + index): option for index, option in enumerate(options)}


def letters(question: TaskQuestion) -> tuple[str, ...]:
    """What a model is asked to answer with; none for an open question."""
    return tuple(_lettered(question.options))


def choice(given: str, options: Sequence[str]) -> str:
    """The letter that an answer settles on, "" if there is none.

    The last "(B)" counts; else the last " B " between spaces; else, in an answer of more than five words, the last
    option that is spelled out.
    """
    for mark in ",.!?;:'":
        given = given.strip(mark)
    given = f" {given} "
    letters = _lettered(options)
    places = {letter: given.rfind(f"({letter})") for letter in letters}
    if max(places.values(), default=-1) < 0:
        places = {letter: given.rfind(f" {letter} ") for letter in letters}
    if max(places.values(), default=-1) < 0 and len(given.split()) > 5:
        places = {letter: given.lower().rfind(option.lower()) for letter, option in letters.items()}
    last = max(places, key=lambda letter: places[letter], default="")
    return last if last and places[last] >= 0 else ""


def open_answers(given: str) -> set[str | float]:
    """What an answer to an open question may mean: the ends of its lines behind "is", "so", "=" ..., and numbers there.

    Numbers are floats of two decimals; texts are in lower case, single characters with a space before or behind.
    """
    given = given.strip().strip(".").lower()
    lines = given.split("\n")
    ends = []
    for index, line in enumerate(lines):
        leads = (*LEADS, "=") if index == len(lines) - 1 else LEADS
        behind = [line.rsplit(lead, 1)[1].strip() for lead in leads if lead in line]
        shortest = ""
        for text in behind:  # an empty one gives way to whatever comes next, as in the official script
            shortest = text if not shortest or len(text) < len(shortest) else shortest
        if shortest and shortest not in set(":,.!?;'"):
            ends.append(shortest)
    ends = ends or [given]
    numbers = [number for end in ends for pattern in _NUMBERS for number in pattern.findall(end)]
    return {meaning for text in [*ends, *numbers] for meaning in _meanings(text)}


def _meanings(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def is_right(question: TaskQuestion, given: str) -> bool:
    """Whether the letter is the right one; whether an open answer has the right number, or the right text within it."""
    if question.options:
        return choice(given, question.options) in question.answers
    expected = [meaning for answer in question.answers for meaning in _meanings(answer)]
    texts = [text for text in expected if isinstance(text, str)]
    return any(
        any(text in said for text in texts) if isinstance(said, str) else said in expected
        for said in open_answers(given)
    )


def score(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> list[Measure]:
    """Accuracy over all questions, of each discipline and subject; the share of choices that could not be read."""
    pairs = list(zip(questions, answers, strict=True))
    right = [float(is_right(question, given)) for question, given in pairs]
    unread = [float(not choice(given, question.options)) for question, given in pairs if question.options]
    subjects = [question.kind for question in questions]
    return [
        mean("accuracy", right),
        mean("no choice to be read", unread),
        *means_by([DISCIPLINE_OF.get(subject, "other") for subject in subjects], right),
        *means_by([f"subject {subject}" for subject in subjects], right),
    ]


def write(questions: Sequence[TaskQuestion], answers: Sequence[str]) -> str:
    """The format of the official main_eval_only.py: letters, and open answers as they were given."""
    pairs = zip(questions, answers, strict=True)
    return json.dumps({q.id: choice(given, q.options) if q.options else given for q, given in pairs}, indent=2)


TASK = Task(
    needs="SUBJECT/validation-*.parquet (pyarrow), or validation.jsonl and images/",
    splits=("validation", "dev", "test"),
    max_new_tokens=128,
    read=read,
    score=score,
    write=write,
    choices=letters,
)
