"""Writing so that a kill at any moment leaves the old file or folder, or none, and never half of one."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from himix_edge.errors import InputError


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """fsync every file below `folder`, and the folders themselves, so that a rename behind it is durable."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish_folder(staged: Path, target: Path) -> None:
    """Make `staged` appear as `target` by rename; an older `target` is moved aside first and removed last."""
    sync_folder(staged)
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    staged.rename(target)
    sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_entry(folder: Path) -> None:
    """fsync a folder's own entries (the names in it)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that becomes `target` when the block ends well and vanishes when it does not."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        staged.chmod(0o755)
        try:
            yield staged
            publish_folder(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder, made if need be, until the block ends. Raises InputError(busy) while another process holds it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well and vanishes when it does not."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.tmp-", dir=target.parent)
        os.close(handle)
        staged = Path(name)
        staged.chmod(0o644)
        try:
            yield staged
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            staged.replace(target)
            sync_entry(target.parent)
        finally:
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a file in the way into one line that names `target`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot write here: {error.strerror or error}") from error
    except SafetensorError as error:  # its writer's own word for an OSError
        raise InputError(f"{target}: cannot write here: {error}") from error
