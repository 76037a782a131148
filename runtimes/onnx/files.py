"""What an ONNX file names outside of itself, read from its protobuf without loading it.

ONNX Runtime follows tensors whose data is external, wherever in a graph they stand: initializers, sparse ones,
attributes, subgraphs and functions. Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from himix_edge.errors import InputError
from himix_edge.reading import open_regular

MAX_DEPTH = 100  # protobuf's own limit
# message -> field -> the message in it
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


def external_data_of(folder: Path, name: str) -> Iterator[str]:
    """Where the graph `name` has its external tensors, relative to `folder`, as it is written."""
    parent = PurePosixPath(name).parent
    for location in external_data(folder / name):
        # what leaves the folder is no listed path
        yield location if parent == PurePosixPath(".") else f"{parent}/{location}"


def external_data(path: Path) -> set[str]:
    """The locations of an ONNX file's external tensors, as they are written, relative to the file's folder.

    Raises:
        InputError: it cannot be read as protobuf, or names no place for a tensor's external data.
    """
    with open_regular(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return set(_locations(content, 0, len(content), "model", 0))
        except (ValueError, IndexError, UnicodeDecodeError) as error:  # an empty file cannot be mapped
            raise InputError(f"{path}: not an ONNX file ({error})") from None


def _locations(content: mmap.mmap, begin: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if message == "tensor":
        yield from _of_tensor(content, begin, end)
        return
    inner = FIELDS[message]
    for field, first, last in fields(content, begin, end):
        if field in inner and first is not None:
            yield from _locations(content, first, last, inner[field], depth + 1)


def _of_tensor(content: mmap.mmap, begin: int, end: int) -> Iterator[str]:
    external, found = False, []
    for field, first, last in fields(content, begin, end):
        if field == TENSOR_DATA_LOCATION and first is None and last:
            external = True
        elif field == TENSOR_EXTERNAL_DATA and first is not None:
            entry = {ENTRY_KEY: b"", ENTRY_VALUE: b""}
            for number, start, stop in fields(content, first, last):
                if number in entry and start is not None:
                    entry[number] = content[start:stop]
            if entry[ENTRY_KEY] == b"location":
                found.append(entry[ENTRY_VALUE].decode())
    if external and not found:
        raise ValueError("a tensor's data is external, but not said where")
    yield from found


def fields(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int | None, int]]:
    """Field number, first and last byte of what has a length; of a whole number None and its value."""
    while begin < end:
        tag, begin = _varint(content, begin, end)
        field, kind = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:
            raise ValueError(f"a field with the number {field}")
        first: int | None = None
        value = 0
        if kind == VARINT:
            value, begin = _varint(content, begin, end)
        elif kind == LENGTH:
            length, first = _varint(content, begin, end)
            begin = value = first + length
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            begin += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if begin > end:
            raise ValueError("a field is longer than what it stands in")
        yield field, first, value


def _varint(content: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    value = 0
    for number in range(10):
        if begin >= end:
            raise ValueError("it ends within a number")
        byte = content[begin]
        begin += 1
        value |= (byte & 127) << (7 * number)
        if byte < 128:
            return value, begin
    raise ValueError("a number of more than ten bytes")
