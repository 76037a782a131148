"""Which binaries an ONNX file with compiled contexts takes from beside it, read from its protobuf without loading it.

An EPContext node names its binary in the attribute `ep_cache_context`. Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.reading import open_regular
from himix_edge.runtimes.onnx.files import fields

GRAPH, NODE, ATTRIBUTE = 7, 1, 5
NAME, TEXT = 1, 4


def binaries_of(path: Path) -> set[str]:
    """Names as they are written. Raises InputError if the file cannot be read as protobuf."""
    with open_regular(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return set(_names(content))
        except (ValueError, IndexError, UnicodeDecodeError) as error:  # an empty file cannot be mapped
            raise InputError(f"{path}: not an ONNX file ({error})") from None


def _names(content: mmap.mmap) -> Iterator[str]:
    for graph in _inside(content, (0, len(content)), GRAPH):
        for node in _inside(content, graph, NODE):
            for attribute in _inside(content, node, ATTRIBUTE):
                texts = {
                    field: content[first:last]
                    for field, first, last in fields(content, *attribute)
                    if field in (NAME, TEXT) and first is not None
                }
                if texts.get(NAME) == b"ep_cache_context":
                    yield texts.get(TEXT, b"").decode()


def _inside(content: mmap.mmap, place: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    for field, first, last in fields(content, *place):
        if field == wanted and first is not None:
            yield first, last
