"""What a .tflite file names outside of itself, read from its flatbuffer without loading it.

Numbers of fields are those of schema.fbs. LiteRT follows the groups of external buffers, whose names are paths.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.reading import open_regular

EXTERNAL_BUFFER_GROUPS = 8  # of a model


def outside_files(folder: Path, name: str) -> Iterator[str]:
    """Nothing: a bundle's weights stand in the file itself.

    Raises:
        InputError: it is no .tflite file, or names other files.
    """
    path = folder / name
    with open_regular(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content[4:8] != b"TFL3":
                    raise ValueError("its mark is missing")
                outside = _length(content, EXTERNAL_BUFFER_GROUPS)
        except (ValueError, struct.error) as error:  # an empty file cannot be mapped
            raise InputError(f"{path}: not a .tflite file ({error})") from None
    if outside:
        raise InputError(f"{path}: has weights in other files, as no bundle has; refused")
    yield from ()


def _length(content: mmap.mmap, field: int) -> int:
    """Of a vector in the root table; 0 where it is left out."""
    (root,) = struct.unpack_from("<I", content, 0)
    (back,) = struct.unpack_from("<i", content, root)
    fields, slot = root - back, 4 + 2 * field
    if fields < 0:
        raise ValueError("a table begins in front of it")
    if slot >= struct.unpack_from("<H", content, fields)[0]:
        return 0
    (inside,) = struct.unpack_from("<H", content, fields + slot)
    if not inside:
        return 0
    (ahead,) = struct.unpack_from("<I", content, root + inside)
    (length,) = struct.unpack_from("<I", content, root + inside + ahead)
    return int(length)
