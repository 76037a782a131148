"""The bundle: one folder per (model, target, precision), described by manifest.json and checked when opened.

Nothing in a bundle is trusted: the manifest is validated, every path has to stay inside the folder and be a file of its
own, and every file has to have the stated size and SHA-256 before a runtime sees it. What a runtime opens beside a
role's main file has to be listed too; a file that nothing names is never opened.
"""

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from himix_edge.config import ModelConfig
from himix_edge.errors import GateRefused, InputError
from himix_edge.files import sha256
from himix_edge.held_files import HeldFiles
from himix_edge.manifest import (
    MANIFEST,
    METHODS,
    ROLES,
    FileRecord,
    GenerationDefaults,
    Manifest,
    ParityResult,
    Preprocessing,
    Quantisation,
    SelfTest,
    all_files,
    cache_bytes,
    read_manifest,
    write_manifest,
)
from himix_edge.references import referenced

__all__ = [
    "MANIFEST", "METHODS", "ROLES", "Bundle", "FileRecord", "GenerationDefaults", "Manifest", "ParityResult",
    "Preprocessing", "Quantisation", "SelfTest", "all_files", "cache_bytes", "file_record", "open_verified",
    "read_manifest", "write_manifest",
]  # fmt: skip


class Bundle:
    """An opened bundle. `held` are its files as they were verified."""

    def __init__(self, folder: Path, manifest: Manifest, held: HeldFiles | None = None):
        self.folder = folder
        self.manifest = manifest
        self.held = held or HeldFiles(())
        self.config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))

    @property
    def bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(record.bytes for record in all_files(self.manifest))

    def role_path(self, role: str) -> Path:
        """The main file of a role (its first)."""
        return self.folder / self.manifest.roles[role][0].path


def open_verified(folder: str | Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        InputError: not a bundle, a manifest that breaks the schema or has an unknown version, a path that leaves
            the folder, a link, a missing file, one that a runtime would read though it is not listed.
        GateRefused: a file whose size or hash is not the manifest's.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    records = {folder / record.path: record for record in all_files(manifest)}
    for path in records:
        _refuse_links(folder, path)
    held = HeldFiles(records)
    with ThreadPoolExecutor() as pool:  # hashing a large file keeps one core busy
        list(pool.map(partial(_check_file, held), records, records.values()))
    listed = {record.path for record in records.values()}
    for name in dict.fromkeys(records[0].path for records in manifest.roles.values()):
        for other in referenced(folder, manifest.target, name):
            if other not in listed:
                raise InputError(f"{folder / name}: reads {other!r:.200}, which the manifest does not list; refused")
    held.check_in_place()
    return Bundle(folder, manifest, held)


def file_record(folder: Path, path: Path) -> FileRecord:
    """Size and hash of a file below `folder`."""
    return FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256(path))


def _check_file(held: HeldFiles, path: Path, record: FileRecord) -> None:
    file = held.open_file(path)
    size = os.fstat(file.fileno()).st_size
    if size != record.bytes:
        raise GateRefused(f"{path}: {size} bytes, the manifest says {record.bytes}; export or copy the bundle again")
    try:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if digest != record.sha256:
        raise GateRefused(
            f"{path}: content does not match its SHA-256 in the manifest; export or copy the bundle again"
        )


def _refuse_links(folder: Path, path: Path) -> None:
    """For a link anywhere below `folder`, which may be one itself: that is the user's affair."""
    parts = path.relative_to(folder).parts
    for step in (folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)):
        try:
            linked = stat.S_ISLNK(step.lstat().st_mode)
        except FileNotFoundError:
            raise InputError(f"{step}: missing; the bundle is incomplete, export or copy it again") from None
        except OSError as error:
            raise InputError(f"{step}: {error.strerror or error}") from None
        if linked:
            outside = not Path(os.path.realpath(step)).is_relative_to(os.path.realpath(folder))
            what = "a link that leaves the bundle" if outside else "a link; a bundle holds the files themselves"
            raise InputError(f"{step}: {what}; refused")
