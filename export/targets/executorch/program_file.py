"""A program file in which what is a constant and named data as well is stored once.

XNNPACK's weights are named data, each in a segment of the file of its own; the token embedding's table is a constant,
in the segment of all constants. A tied head multiplies with that table, and the exporter stores it twice. Here the
head's segments become parts of the constants' one: the format gives a segment an offset and a size, and no more.
"""

import mmap
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 128  # of a segment, as the exporter has it
SMALLEST = 1 << 10  # bytes of a segment that is looked for among the constants
FIRST = 64  # bytes by which it is looked for
DATA_SIZE_AT = 32  # where the header says how large all segments are
SEGMENTS, CONSTANTS, NAMED = 4, 5, 7  # fields of a program (executorch/schema/program.fbs)
OFFSET, SIZE = 0, 1  # of a segment
SEGMENT_INDEX, OFFSETS = 0, 1  # of the constants
NAMED_INDEX = 1  # of named data


@dataclass(frozen=True)
class Table:
    """A flatbuffer table: where the fields of a program are."""

    data: bytearray
    at: int

    def place(self, field: int) -> int:
        """Where a field is; 0: left out, as it is zero."""
        vtable = self.at - self._read("<i", self.at)
        slot = 4 + 2 * field
        inside = self._read("<H", vtable + slot) if slot < self._read("<H", vtable) else 0
        return inside and self.at + inside

    def number(self, field: int, form: str) -> int:
        """An integer in `struct`'s form."""
        place = self.place(field)
        return self._read(form, place) if place else 0

    def table(self, field: int) -> "Table | None":
        """A table inside this one."""
        place = self.place(field)
        return self._at(place) if place else None

    def tables(self, field: int) -> "list[Table]":
        """A vector of tables."""
        start, count = self._vector(field)
        return [self._at(start + 4 * i) for i in range(count)]

    def numbers(self, field: int) -> tuple[int, ...]:
        """A vector of uint64."""
        start, count = self._vector(field)
        return struct.unpack_from(f"<{count}Q", self.data, start)

    def _vector(self, field: int) -> tuple[int, int]:
        place = self.place(field)
        if not place:
            return 0, 0
        start = place + self._read("<I", place)
        return start + 4, self._read("<I", start)

    def _at(self, place: int) -> "Table":
        return Table(self.data, place + self._read("<I", place))

    def _read(self, form: str, at: int) -> int:
        value: int = struct.unpack_from(form, self.data, at)[0]
        return value


def write_shared(source: Path, path: Path) -> None:
    """Write the program in `source` to `path`, without the named data that its constants contain.

    The new file appears by renaming; `source` stays as it is.

    Raises:
        ValueError: `source` is not a program with segments.
    """
    fresh = path.with_name(f".{path.name}.shared")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:6] != b"ET" or data[8:12] != b"eh00":
            raise ValueError(f"{source}: not an ExecuTorch program with segments")
        size, base = struct.unpack_from("<QQ", data, 16)
        table = bytearray(data[:size])
        program = Table(table, struct.unpack_from("<I", table)[0])
        segments = program.tables(SEGMENTS)
        spans = [(base + segment.number(OFFSET, "<Q"), segment.number(SIZE, "<Q")) for segment in segments]
        copies = _copies(program, data, spans)
        starts, end = {}, 0
        for i, (_, size) in enumerate(spans):
            if i not in copies:
                starts[i] = -(-end // ALIGNMENT) * ALIGNMENT
                end = starts[i] + size
        for i, (constants, inside) in copies.items():
            starts[i] = starts[constants] + inside
        for i, segment in enumerate(segments):
            if starts[i] != segment.number(OFFSET, "<Q"):
                struct.pack_into("<Q", table, segment.place(OFFSET), starts[i])
        struct.pack_into("<Q", table, DATA_SIZE_AT, end)
        with fresh.open("wb") as shared:
            shared.write(table)
            for i, (at, size) in enumerate(spans):
                if i not in copies:
                    shared.seek(base + starts[i])
                    shared.write(data[at : at + size])
            shared.truncate(base + end)
    fresh.replace(path)


def _copies(program: Table, data: mmap.mmap, spans: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Segment index -> index of the segment of constants and place in it, of all named data that is there as well."""
    constants = program.table(CONSTANTS)
    if constants is None:
        return {}
    index = constants.number(SEGMENT_INDEX, "<I")
    start, length = spans[index]
    found, places = {}, defaultdict(list)
    for inside in constants.numbers(OFFSETS):
        places[data[start + inside : start + inside + FIRST]].append(inside)
    for i in {named.number(NAMED_INDEX, "<I") for named in program.tables(NAMED)}:
        at, size = spans[i]
        for inside in places[data[at : at + FIRST]] if size >= SMALLEST else ():
            if inside + size <= length and data[start + inside : start + inside + size] == data[at : at + size]:
                found[i] = (index, inside)
    return found
