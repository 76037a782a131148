"""What every writer needs: errors of the disk in one line, and renames that survive a power cut."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from himix_edge.errors import InputError


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a file in the way into one line that names `target`."""
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed: no matter of the disk
        raise
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not _is_near(error.filename, target)
        where = error.filename if elsewhere else f"{target}: cannot write here"
        raise InputError(f"{where}: {error.strerror or error}") from error
    except SafetensorError as error:  # its writer's own word for an OSError
        raise InputError(f"{target}: cannot write here: {error}") from error


def _is_near(name: str, target: Path) -> bool:
    """Whether a file lies in or beside `target`, or on the way to it."""
    path, folder = Path(name).absolute(), target.absolute().parent
    return any(path.is_relative_to(each) or each.is_relative_to(path) for each in (folder, folder.resolve()))


def sync_tree(path: Path) -> None:
    """fsync a file, or a folder with everything below it, so that a rename behind it is durable."""
    below = path.rglob("*") if path.is_dir() else ()
    for each in [*below, path]:
        sync_entry(each)


def sync_entry(path: Path) -> None:
    """fsync one file, or a folder's own entries (the names in it)."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    # Windows syncs only what is open for writing
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
