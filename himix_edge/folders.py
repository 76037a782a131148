"""Writing a folder: whole or not at all, and in place of nothing but what himix wrote there itself.

A folder is himix's own if a record in it says so and lists every file: a bundle's manifest.json, and in checkpoints,
training runs and results `.himix.json`. One file more, and the folder is somebody's.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from himix_edge.errors import InputError
from himix_edge.reading import read_json, validated
from himix_edge.staging import Staging, staging

RECORD = ".himix.json"
Listed = Callable[[Path], frozenset[str]]


@dataclass(frozen=True)
class FolderRecord:
    """`.himix.json`: what the folder is, and the files in it, their paths with forward slashes."""

    written_by: Literal["himix-edge"]
    kind: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Replacing:
    """What may be replaced by a new folder.

    Attributes:
        kind: what himix makes there, in words: "bundle".
        force: whether an earlier one may be.
        keep: files and folders that must outlive it: what is read. The current folder always is one.
        listed: the files of a folder by its own record; raises InputError if it has none. None: `.himix.json`'s.
    """

    kind: str
    force: bool = False
    keep: tuple[Path, ...] = ()
    listed: Listed | None = None

    def check(self, given: Path, place: Staging) -> None:
        """Raises InputError if what is at the target has to stay; `given` is how the user calls it."""
        target = place.target
        try:
            info = target.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISLNK(info.st_mode):
            raise InputError(f"{given}: a link; give the folder that it leads to")
        if not stat.S_ISDIR(info.st_mode):
            raise InputError(f"{given}: exists and is not a {self.kind}; choose another --out")
        if not place.is_mine(info):
            raise InputError(f"{given}: belongs to another user; choose another --out")
        if os.path.ismount(target):
            raise InputError(f"{given}: another disk begins here; choose a folder in it")
        self._refuse_above_what_is_kept(given, info)
        if not any(target.iterdir()):
            return
        try:
            names = (self.listed or partial(recorded, kind=self.kind))(target)
        except InputError:
            raise InputError(f"{given}: exists and is not a {self.kind} of himix's; choose another --out") from None
        if strays := list(stray(target, names)):
            more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
            raise InputError(
                f"{given}: holds something else than the {self.kind}: {strays[0]}{more}; "
                "move it away or choose another --out"
            )
        if not self.force:
            raise InputError(f"{given}: holds another {self.kind}; add --force to replace it or choose another --out")

    def _refuse_above_what_is_kept(self, given: Path, info: os.stat_result) -> None:
        for kept, what in [(Path.cwd(), "the current folder"), *((path, str(path)) for path in self.keep)]:
            path = kept.resolve()
            for each in (path, *path.parents):
                if each.exists() and os.path.samestat(each.stat(), info):
                    where = f"it is {what}" if each == path else f"{what} lies in it"
                    raise InputError(f"{given}: {where}; choose another --out")


@contextlib.contextmanager
def staged_folder(target: Path, replacing: Replacing) -> Iterator[Path]:
    """A fresh folder that becomes `target` when the block ends well and vanishes when it does not.

    Raises:
        InputError: what is at `target` must stay, another process is writing it, or the place cannot be written.
    """
    with staging(target) as place:
        replacing.check(target, place)
        place.new.mkdir()
        yield place.new
        write_record(place.new, replacing.kind)
        place.publish(place.new, lambda: replacing.check(target, place))


def write_record(folder: Path, kind: str, files: Sequence[str] | None = None) -> None:
    """Write `.himix.json`.

    Args:
        folder: where.
        kind: what the folder is.
        files: that it may hold; None: those that are there now.
    """
    if files is None:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    record = {"written_by": "himix-edge", "kind": kind, "files": [name for name in files if name != RECORD]}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def recorded(folder: Path, kind: str | None = None) -> frozenset[str]:
    """The files that `.himix.json` lists, itself included. Raises InputError if it is missing or of another kind."""
    path = folder / RECORD
    record = validated(FolderRecord, read_json(path, 16 << 20), str(path))
    if kind is not None and record.kind != kind:
        raise InputError(f"{folder}: a {record.kind}")
    return frozenset((RECORD, *record.files))


def stray(folder: Path, names: frozenset[str], prefix: str = "") -> Iterator[str]:
    """Paths below `folder` that its record does not list; folders with a record of their own go by that."""
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        name = f"{prefix}{entry.name}"
        if not entry.is_dir(follow_symlinks=False):
            if name not in names or not entry.is_file(follow_symlinks=False):
                yield name
        elif any(each.startswith(f"{name}/") for each in names):
            yield from stray(Path(entry.path), names, f"{name}/")
        else:
            try:
                own = recorded(Path(entry.path))
            except InputError:
                yield f"{name}/"
            else:
                yield from (f"{name}/{each}" for each in stray(Path(entry.path), own))
