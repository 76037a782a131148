"""Parquet files with images in a column, as data sets on Hugging Face's hub have them; needs pyarrow."""

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from himix_edge.errors import BackendMissing, InputError
from himix_edge.preprocess import FORMATS, MAX_PIXELS
from himix_edge.reading import first_problem

MAX_BYTES = 1 << 30
T = TypeVar("T")


@dataclass(frozen=True)
class ParquetPicture:
    """The image in one row's {"bytes", "path"} column."""

    path: Path
    column: str
    row: int

    def render(self) -> Image.Image:
        """Decode it. Raises InputError if there is none, or it is damaged or over 100 megapixels."""
        where = f"{self.path}: row {self.row}: {self.column}"
        value = _images(self.path, self.column)[self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else None
        if not isinstance(content, bytes):
            raise InputError(f"{where}: holds no image")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own size warning
                image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{where}: images over {MAX_PIXELS // 10**6} megapixels are refused")
            image.load()
        except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
            raise InputError(f"{where}: damaged image ({error})") from None
        return image


def parquet_records(path: Path, columns: list[str], form: TypeAdapter[T], image: str) -> list[tuple[T, ParquetPicture]]:
    """Every row's `columns` in the given form, and its image, which is read when it is drawn.

    Raises:
        BackendMissing: pyarrow is not installed.
        InputError: over 1 GiB, no parquet, a missing column, or a row that is not in the form.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
    rows = _table(path, columns).to_pylist()
    records = []
    for number, row in enumerate(rows):
        try:
            records.append((form.validate_python(row), ParquetPicture(path, image, number)))
        except ValidationError as error:
            raise InputError(f"{path}: row {number}: {first_problem(error)}") from None
    return records


@lru_cache(maxsize=1)
def _images(path: Path, column: str) -> Any:
    """One file's images, still encoded; the last file's are kept, as its questions are asked one after the other."""
    return _table(path, [column])[column]


def _table(path: Path, columns: list[str]) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise BackendMissing("pyarrow", "mmmu") from None
    try:
        file = ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r}")
        return file.read(columns=columns)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from None
