"""The folder that an export works in, and the roles' files in it.

It is keyed by everything that decides the result, so a rerun after a kill goes on with the roles that are finished, and
a rerun with other settings starts anew.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from himix_edge.bundle import MANIFEST, FileRecord, all_files, file_record, read_manifest
from himix_edge.errors import InputError
from himix_edge.export.graphs import release_memory
from himix_edge.export.progress import Progress
from himix_edge.export.quantization.tensors import QuantizedModel
from himix_edge.export.request import Plan
from himix_edge.files import sha256
from himix_edge.folders import Replacing
from himix_edge.reading import read_json, validated
from himix_edge.staging import Staging, remove, staging

STAGES = "stages.json"


@dataclass(frozen=True)
class Stages:
    """stages.json of an unfinished export: what it is of, and the files of the roles that are finished."""

    key: str
    roles: dict[str, list[FileRecord]]


def replacing(plan: Plan) -> Replacing:
    """What the bundle may take the place of."""
    read = (plan.request.calibration, plan.request.policy, plan.request.probe, *plan.source.files)
    keep = tuple(path for path in read if path is not None)
    return Replacing("bundle", plan.request.force, keep, listed_files)


def listed_files(folder: Path) -> frozenset[str]:
    """All files of a bundle, by its manifest. Raises InputError if it is none."""
    return frozenset((MANIFEST, *(record.path for record in all_files(read_manifest(folder)))))


@contextlib.contextmanager
def staged(plan: Plan) -> Iterator[Staging]:
    """The staging folder with finished roles of an earlier try in its `new`, held by one export at a time.

    It survives a kill and an interrupt; any error removes it. Helper files of the exporters' libraries go there too.
    """
    out = plan.request.out
    with staging(out, busy="another export is writing this bundle", resumable=True) as place:
        replacing(plan).check(out, place)
        place.new.mkdir(exist_ok=True)
        place.scratch.mkdir()
        try:
            with _temporary_files_in(place.scratch):
                yield place
        except Exception:
            place.keeps = False
            raise


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let libraries make their temporary files in `folder`, which is cleared even after a kill."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable


def write_roles(plan: Plan, model: QuantizedModel, folder: Path, progress: Progress) -> dict[str, list[Path]]:
    """Each role's files; those that an earlier try with the same key finished are taken over."""
    stages, done = folder / STAGES, _finished(folder / STAGES, plan.key)
    kept = {Path(record.path).parts[0] for records in done.values() for record in records} | {STAGES}
    for leftover in folder.iterdir():
        if leftover.name not in kept or not done:
            remove(leftover)
    roles = {}
    for role, write in plan.target.stages(model, plan.options).items():
        records = done.get(role, [])
        if records and all(_intact(folder, record) for record in records):
            progress.step(f"{role}: finished by an earlier run")
        else:
            progress.step(f"{role}: tracing and writing")
            records = [file_record(folder, path) for path in write(folder)]
            release_memory()
            done[role] = records
            listed = {name: [record.model_dump() for record in found] for name, found in done.items()}
            fresh = folder / f"{STAGES}.new"
            fresh.write_text(json.dumps({"key": plan.key, "roles": listed}), encoding="utf-8")
            fresh.replace(stages)
        roles[role] = [folder / record.path for record in records]
    return roles


def _finished(stages: Path, key: str) -> dict[str, list[FileRecord]]:
    """The roles that an earlier try with this key finished; none if it left no record that can be read."""
    try:
        earlier = validated(Stages, read_json(stages), str(stages))
    except InputError:
        return {}
    return dict(earlier.roles) if earlier.key == key else {}


def _intact(folder: Path, record: FileRecord) -> bool:
    path = folder / record.path
    return path.is_file() and path.stat().st_size == record.bytes and sha256(path) == record.sha256
