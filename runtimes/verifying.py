"""Reading a bundle and checking every file of it, before a runtime sees one.

Nothing in a bundle is trusted: the manifest is validated, every path has to stay inside the folder and be a file of its
own, and every file has to have the stated size and SHA-256. What a runtime opens beside a role's main file has to be
listed too; a file that nothing names is never opened.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from himix_edge.bundle import Bundle, FileRecord, all_files, read_manifest
from himix_edge.errors import GateRefused, InputError
from himix_edge.held_files import HeldFiles
from himix_edge.runtimes.registry import find_runtime, runtime_names


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
        for other in read_beside(folder, manifest.target, name):
            if other not in listed:
                raise InputError(f"{folder / name}: reads {other!r:.200}, which the manifest does not list; refused")
    held.check_in_place()
    return Bundle(folder, manifest, held)


def read_beside(folder: Path, target: str, name: str) -> Iterable[str]:
    """Paths relative to `folder` of what the target's runtime reads beside the main file `name`.

    Raises:
        InputError: a main file of another format than the target's, which its runtime may read by other rules, or one
            in which no such paths can be found.
    """
    if target not in runtime_names():
        return ()  # nothing here opens it
    runtime = find_runtime(target)
    if not name.endswith(runtime.ending):
        raise InputError(f"{folder / name}: no file of the target {target}, which ends in {runtime.ending}; refused")
    return runtime.reads(folder, name)


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
