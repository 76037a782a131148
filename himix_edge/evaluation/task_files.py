"""Reading the files of a published task, which nobody vouches for: bounded and validated."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from himix_edge.errors import InputError
from himix_edge.reading import first_problem, parse_json
from himix_edge.reading import read_text as read_any_text

__all__ = ["read_json", "read_json_lines", "refuse_twice"]

MAX_BYTES = 1 << 30  # the largest file of the tasks here, VQAv2's training annotations, has 0.4 GB
T = TypeVar("T")


def read_json(path: Path, form: TypeAdapter[T], source: str) -> T:
    """A JSON file in the given form; `source` says where people get it.

    Raises:
        InputError: missing, over 1 GiB, no JSON, or not in the form (the first wrong field is named).
    """
    return _in_form(parse_json(_read(path, source), str(path)), form, str(path))


def read_json_lines(path: Path, form: TypeAdapter[T], source: str) -> list[T]:
    """A file of one JSON record a line, empty lines passed over. Errors as `read_json`, the line named."""
    records = []
    for number, line in enumerate(_read(path, source).split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            records.append(_in_form(parse_json(line, where), form, where))
    return records


def refuse_twice(ids: Iterable[str], where: str) -> None:
    """Raises InputError for a question that is there twice: its answers could not be told apart."""
    for name, count in Counter(ids).items():
        if count > 1:
            raise InputError(f"{where}: question {name} stands there {count} times")


def _in_form(value: object, form: TypeAdapter[T], where: str) -> T:
    try:
        return form.validate_python(value, strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from None


def _read(path: Path, source: str) -> str:
    try:
        return read_any_text(path, MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}; it is part of {source}") from None
