"""Writing one file so that a kill at any moment leaves the old one, the new one or none, and never half of one."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.staging import Staging, staging

Ours = Callable[[Path], bool]


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged_file(target: Path, ours: Ours | None = None, *, wait: bool = False) -> Iterator[Path]:
    """A path, its file empty, that becomes `target` when the block ends well and vanishes when it does not.

    Args:
        target: the file to write.
        ours: whether an existing regular file there is an earlier one of the same kind, which may be replaced. None:
            any may, as in a cache that nobody else writes to.
        wait: for another process that writes the same file, rather than refuse.

    Raises:
        InputError: something else is there, it is a link, a folder or a device, another process is writing it, or the
            place cannot be written.
    """
    refuse_foreign_file(target, None)  # before anything is made beside it, as in /dev
    with staging(target, wait=wait) as place:
        _refuse(target, place, ours)
        place.new.mkdir()
        made = place.new / place.target.name
        made.touch()
        yield made
        place.publish(made, lambda: _refuse(target, place, ours))


def refuse_foreign_file(target: Path, ours: Ours | None) -> None:
    """What `staged_file` would refuse to replace, before any work. Raises InputError as it does."""
    try:
        info = target.lstat()
    except OSError:  # nothing there; or no way there, which writing will tell
        return
    if stat.S_ISLNK(info.st_mode):
        raise InputError(f"{target}: a link; give the file that it leads to")
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{target}: {'a folder' if stat.S_ISDIR(info.st_mode) else 'not a regular file'}; refused")
    if ours is not None and info.st_size and not ours(target):
        raise InputError(f"{target}: exists, and holds something else; choose another name or move it away")


def _refuse(target: Path, place: Staging, ours: Ours | None) -> None:
    refuse_foreign_file(place.target, ours)
    if place.target.exists() and not place.is_mine(place.target.lstat()):
        raise InputError(f"{target}: belongs to another user; choose another name")


def as_path(value: object) -> Path:
    """A path as people give it. Raises InputError for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{value!r:.60} is no path; give a str or a Path")
    return Path(value)
