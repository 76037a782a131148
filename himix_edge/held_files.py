"""Files kept open between the check of their hashes and the end of their use.

A runtime may map a model's files and read them while it works: a file that shrinks ends the process, one that is
written to gives other answers. A file that is deleted or replaced by another is safe, the open one stays as it was.
"""

import contextlib
import os
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.reading import open_regular


class HeldFiles:
    """Sees whether anyone writes to its files; they are closed when nobody has it any more."""

    def __init__(self, paths: Iterable[Path]):
        """Raises InputError for what cannot be opened, and for what is no regular file."""
        self._files: dict[Path, BufferedReader] = {}
        for path in paths:
            self._files[path] = open_regular(path)
        self._before = {path: os.fstat(file.fileno()) for path, file in self._files.items()}
        self._states = [(p, self._files[p].fileno(), s.st_size, s.st_mtime_ns) for p, s in self._before.items()]

    def open_file(self, path: Path) -> BufferedReader:
        """The open file of one of the paths."""
        return self._files[path]

    def check(self) -> None:
        """Raises InputError naming a file that was written to."""
        for path, descriptor, size, written in self._states:
            found = os.fstat(descriptor)
            if found.st_mtime_ns != written or found.st_size != size:
                raise InputError(f"{path}: changed while it was open; open the bundle again")

    def check_in_place(self) -> None:
        """Raises InputError also for a file that is no longer the one of its name: a runtime opened it by that."""
        self.check()
        for path, before in self._before.items():
            found = None
            with contextlib.suppress(OSError):
                found = identity(path.stat())
            if found != identity(before):
                raise InputError(f"{path}: changed while it was being opened; open the bundle again")

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            file.close()


def identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a file, and one state of it, from another."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
