"""Parquet files with images in a column, as data sets on Hugging Face's hub have them; needs pyarrow."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from himix_edge import extras
from himix_edge.data.image_files import is_file
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, first_problem

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

MAX_BYTES = 1 << 30
MAX_UNPACKED = 4 << 30
MAX_ROWS = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class ParquetPicture:
    """The image in one row's {"bytes", "path"} column."""

    path: Path
    column: str
    row: int

    def stored(self) -> tuple[bytes, str]:
        """See `himix_edge.preprocess.Stored`. Raises InputError if the row holds none."""
        where = f"{self.path}: row {self.row}: {self.column}"
        images = _images(self.path, self.column)
        if self.row >= len(images):
            raise InputError(f"{where}: the file has changed; this row is gone")
        (value,) = _rows(images[self.row : self.row + 1], self.path)
        content = value.get("bytes") if isinstance(value, dict) else None
        if not isinstance(content, bytes):
            raise InputError(f"{where}: holds no image")
        return content, where


def parquet_records(path: Path, columns: list[str], form: TypeAdapter[T], image: str) -> list[tuple[T, ParquetPicture]]:
    """Every row's `columns` in the given form, and its image, which is read when it is drawn.

    Raises:
        BackendMissing: pyarrow is not installed.
        InputError: no regular file, over 1 GiB (unpacked: 4), no parquet, a missing column, or a row that is not in the
            form.
    """
    rows = _rows(_table(path, columns, image), path)
    records = []
    for number, row in enumerate(rows):
        try:
            records.append((form.validate_python(row, strict=True), ParquetPicture(path, image, number)))
        except ValidationError as error:
            raise InputError(f"{path}: row {number}: {first_problem(error)}") from None
    return records


@lru_cache(maxsize=1)
def _images(path: Path, column: str) -> "ChunkedArray":
    """One file's images, still encoded; the last file's are kept, as its questions are asked one after the other."""
    return _table(path, [column])[column]


def _table(path: Path, columns: list[str], other: str = "") -> "Table":
    """These columns; `other` must be there too."""
    with extras.needed("pyarrow", extras.MMMU):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    if not is_file(path) or path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: no file, or one larger than {MAX_BYTES >> 30} GiB")
    try:
        with ParquetFile(path) as file:
            known = file.schema_arrow.names
            missing = [name for name in [*columns, other] if name and name not in known]
            if missing:
                raise InputError(f"{path}: no column {missing[0]!r}")
            about = file.metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            parts = [group.column(i) for group in groups for i in range(group.num_columns)]
            size = sum(p.total_uncompressed_size for p in parts if p.path_in_schema.partition(".")[0] in columns)
            if size > MAX_UNPACKED or about.num_rows > MAX_ROWS:
                raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED >> 30} GiB or {MAX_ROWS} rows")
            return file.read(columns=columns)
    except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: not a parquet file that can be read ({_first_line(error)})") from None


def _rows(found: "Table", path: Path) -> list[JsonObject]:
    """As Python's own values."""
    try:
        rows: list[JsonObject] = found.to_pylist()
    except (ValueError, OverflowError, TypeError, ArithmeticError) as error:  # no UTF-8; a date beyond Python's
        raise InputError(f"{path}: a value that cannot be read ({_first_line(error)})") from None
    return rows


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
