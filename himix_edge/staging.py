"""Where something is made before it is there: a hidden folder beside it, held by one process at a time.

`.NAME.himix` beside NAME holds all that is unfinished: `lock`, locked by the process that works there; `new`, which a
rename makes NAME; `old`, the NAME that is being replaced; `scratch`, helper files. Whatever moment a process is killed
at, this one folder is all it leaves, and the next one that writes NAME takes it over: it brings `old` back if the kill
came between the two renames, and clears the rest. What himix did not make itself is never entered: a link, another
user's folder, a folder that others may write to, or one that holds something else is refused by name.
"""

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from himix_edge.disk import disk_errors, sync_entry, sync_tree
from himix_edge.errors import InputError
from himix_edge.locks import try_lock

LOCK, NEW, OLD, SCRATCH = "lock", "new", "old", "scratch"
MARK = b"himix-edge works here\n"
TRIES = 100  # at a folder that others remove while it is opened
WAIT = 0.2  # seconds between two looks at a lock


@dataclass
class Staging:
    """A held staging folder.

    Attributes:
        target: what is to be made; absolute, and behind no link.
        folder: beside it.
        identity: of `folder`.
        keeps: whether an unfinished `new` stays when the folder is left.
    """

    target: Path
    folder: Path
    identity: os.stat_result
    keeps: bool

    @property
    def new(self) -> Path:
        return self.folder / NEW

    @property
    def old(self) -> Path:
        return self.folder / OLD

    @property
    def scratch(self) -> Path:
        return self.folder / SCRATCH

    def is_mine(self, path: os.stat_result) -> bool:
        """Whether a file belongs to who runs this; some file systems give every file one owner."""
        return not hasattr(os, "geteuid") or path.st_uid in (os.geteuid(), self.identity.st_uid)

    def publish(self, made: Path, check: Callable[[], None]) -> None:
        """Make `made`, a file or folder in here, the target by rename; an older one is moved aside and removed last.

        Args:
            made: complete. Its files get the rights that the user's umask gives to new ones.
            check: called last before the renames; raises InputError if what lies at the target must stay there.
        """
        _usual_rights(made, stat.S_IMODE(self.new.stat().st_mode))
        sync_tree(made)
        self.check_identity()
        check()
        if self.target.is_dir():
            if any(self.target.iterdir()):
                self.target.rename(self.old)
            else:
                self.target.rmdir()
        made.replace(self.target)
        sync_entry(self.target.parent)
        remove(self.old)

    def check_identity(self) -> None:
        """Raises InputError if somebody has put something else in the staging folder's place."""
        if not _is_same(self.folder, self.identity):
            raise InputError(f"{self.folder}: was replaced while himix worked in it; nothing was written")


@contextlib.contextmanager
def staging(
    target: Path, *, wait: bool = False, busy: str = "another himix is writing this", resumable: bool = False
) -> Iterator[Staging]:
    """Hold the staging folder of `target` until the block ends, and remove it.

    Args:
        target: a file or folder to be made; its parents are made too, and go again if they stay empty.
        wait: for another process that holds it, rather than refuse.
        busy: what to say of it, behind the target's name.
        resumable: an earlier run's `new` is still there when the block begins, and stays when it ends.

    Raises:
        InputError: another process holds it, something else is in its place, or the place cannot be written.
    """
    given = target
    with disk_errors(given):
        target = settled(target)
        folder = staging_folder(target)
        parents = _make_parents(target.parent)
        try:
            handle, identity = _hold(folder, f"{given}: {busy}", wait)
            place = Staging(target, folder, identity, resumable)
            try:
                recover(place)
                remove(place.scratch)
                if not resumable:
                    remove(place.new)
                yield place
            finally:
                _leave(place, handle)
        finally:
            for parent in parents:
                with contextlib.suppress(OSError):  # it holds something now
                    parent.rmdir()


def tidy(target: Path) -> None:
    """Clear what a killed writer of `target` left beside it, and bring an older target back; not if one works there.

    A `new` that a resumable writer may go on with stays.
    """
    target = settled(target)
    if os.path.lexists(staging_folder(target)):
        with contextlib.suppress(InputError), staging(target, resumable=True):
            pass


def recover(place: Staging) -> None:
    """Finish what a kill interrupted: bring `old` back if `new` has not become the target, otherwise remove it.

    Raises:
        InputError: it has to come back, and something else is in its place.
    """
    if not os.path.lexists(place.old):
        return
    if not os.path.lexists(place.new) and os.path.lexists(place.target):
        remove(place.old)
        return
    if os.path.lexists(place.target):
        try:
            place.target.rmdir()
        except OSError:
            raise InputError(
                f"{place.target}: what a killed himix was replacing is kept in {place.old}; move one of them away"
            ) from None
    place.old.rename(place.target)


def staging_folder(target: Path) -> Path:
    """Where `target` is made."""
    return target.with_name(f".{target.name}.himix")


def settled(path: Path) -> Path:
    """`path` absolute, with the links on the way to it resolved but not one in its own place.

    Raises:
        InputError: it is a root folder, or its links lead in a circle.
    """
    try:
        if path.name in ("", ".."):
            path = path.resolve()
        parent = path.parent.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {error}") from None
    if not path.name:
        raise InputError(f"{path}: a root folder; choose another place")
    return parent / path.name


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and its parents; the new ones, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
    return missing


def _hold(folder: Path, busy: str, wait: bool) -> tuple[int, os.stat_result]:
    """Make or take over a staging folder and lock it: the lock's handle and the folder's identity."""
    tries = 0
    while True:
        fresh = True
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            fresh = False
        identity = folder.lstat() if fresh else _known(folder)
        handle = None if identity is None else _open_lock(folder)
        if identity is not None and handle is not None:
            locked = try_lock(handle)
            if locked is None and not fresh:
                os.close(handle)
                raise InputError(f"{folder}: left by another himix, or in use; remove it if none is running")
            if locked is not False and _is_same(folder / LOCK, os.fstat(handle)) and _is_same(folder, identity):
                return handle, identity
            os.close(handle)
            if locked is False:
                if not wait:
                    raise InputError(busy)
                time.sleep(WAIT)
                continue
        tries += 1
        if tries > TRIES:
            raise InputError(busy)


def _known(folder: Path) -> os.stat_result | None:
    """The identity of a staging folder that is there; None if it has just gone. Raises InputError if it is not ours."""
    try:
        found = folder.lstat()
        names = _names(folder) if stat.S_ISDIR(found.st_mode) else set()
    except FileNotFoundError:
        return None
    problem = None
    if not stat.S_ISDIR(found.st_mode):
        problem = "a link" if stat.S_ISLNK(found.st_mode) else "not a folder"
    elif hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
        problem = "others may write to it"
    elif names and LOCK not in names:
        problem = "not made by himix"
    if problem:
        raise InputError(f"{folder}: himix works in a folder of this name, and what is there is {problem}; remove it")
    return found


def _open_lock(folder: Path) -> int | None:
    """The lock file, open for writing; None if the folder has just gone. Raises InputError if it is none of ours."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(folder / LOCK, flags, 0o600)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode) or not MARK.startswith(os.read(handle, len(MARK) + 1)):
        os.close(handle)
        raise InputError(f"{folder}: himix works in a folder of this name, and what is there is not made by himix")
    if os.fstat(handle).st_size < len(MARK):
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, MARK)
    return handle


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _is_same(path: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), known)
    except FileNotFoundError:
        return False


def _leave(place: Staging, handle: int) -> None:
    """Clear and unlock; what is no work of himix's stays."""
    if not _is_same(place.folder, place.identity):
        os.close(handle)
        return
    with contextlib.suppress(InputError):
        recover(place)
    remove(place.scratch)
    if not place.keeps or (place.new.is_dir() and not any(place.new.iterdir())):
        remove(place.new)
    gone = _names(place.folder) == {LOCK}
    if gone and os.name != "nt":
        (place.folder / LOCK).unlink()
    os.close(handle)
    with contextlib.suppress(OSError):  # another himix has taken it over
        if gone and os.name == "nt":  # there nobody removes a file that is open
            (place.folder / LOCK).unlink()
        if gone:
            place.folder.rmdir()


def remove(path: Path) -> None:
    """A file, or a folder with all in it; links are removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _usual_rights(made: Path, folder_mode: int) -> None:
    """Give files and folders the rights of new ones: some libraries make theirs for their user alone."""
    for path in [made, *(made.rglob("*") if made.is_dir() else ())]:
        if not path.is_symlink():
            wanted = folder_mode if path.is_dir() else folder_mode & 0o666
            if stat.S_IMODE(path.stat().st_mode) & 0o777 != wanted & 0o777:
                path.chmod(wanted)
