"""Reading the files of a benchmark, which nobody vouches for: bounded, validated, images only from their folder."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from himix_edge.errors import InputError
from himix_edge.reading import first_problem

MAX_BYTES = 1 << 30  # the largest file of the benchmarks here, VQAv2's training annotations, has 0.4 GB
T = TypeVar("T")


def read_json(path: Path, form: TypeAdapter[T], source: str) -> T:
    """A JSON file in the given form; `source` says where people get it.

    Raises:
        InputError: missing, over 1 GiB, no JSON, or not in the form (the first wrong field is named).
    """
    content = _read(path, source)
    try:
        return form.validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def read_json_lines(path: Path, form: TypeAdapter[T], source: str) -> list[T]:
    """A file of one JSON record a line, empty lines passed over. Errors as `read_json`, the line named."""
    records = []
    for number, line in enumerate(_read(path, source).split(b"\n"), 1):
        if line.strip():
            try:
                records.append(form.validate_json(line))
            except ValidationError as error:
                raise InputError(f"{path}: line {number}: {first_problem(error)}") from None
    return records


def image_inside(folder: Path, name: str, where: str) -> Path:
    """The image `name` below `folder`. Raises InputError if the name leads out of it."""
    image = (folder / name).resolve()
    if not image.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: image {name!r} leaves the image folder {folder}")
    return image


def _read(path: Path, source: str) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES >> 30} GiB; this is not {source}")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; it is part of {source}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
