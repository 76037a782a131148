"""Running a job on this machine: fresh processes, cold files, one record."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from himix_edge.bench.facts import bundle_facts
from himix_edge.bench.job import Job
from himix_edge.bench.outcome import follow
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import LATER, SCHEMA_VERSION, Device, Record
from himix_edge.bench.verdict import judge
from himix_edge.bundle import all_files, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import InputError, last_line
from himix_edge.reading import first_problem
from himix_edge.runtimes.verifying import open_verified

Progress = Callable[[str, int, int], None]  # what is done, steps done, of


def measure_here(
    folder: Path, plan: Plan, dataset: Dataset, device: Device, command: str, progress: Progress
) -> Record:
    """Measure a bundle in fresh processes on this machine.

    Raises:
        InputError, GateRefused, BackendMissing: as `open_bundle`, and for a plan that does not fit the bundle.
    """
    open_verified(folder)  # before the first of its files is opened below
    job, started = plan.job(folder, dataset), now()
    loads, before = [], bundle_facts(folder)
    for number in range(plan.loads - 1):
        progress("opening", number, plan.loads)
        cold = drop_page_cache(folder)
        loads.append(run_worker("load", job, lambda done, of: None)["load"])
    progress("opening", plan.loads - 1, plan.loads)
    cold = drop_page_cache(folder)
    outcome = run_worker("measure", job, lambda done, of: progress("measuring", done, of))
    outcome["files_dropped"] = "posix_fadvise" if cold else None
    outcome["samples"]["load" if cold else "load_warm"] = [*loads, *outcome["samples"].pop("load")]
    record = make_record(folder, plan, job, outcome, device, command, started)
    if record.bundle != before:
        raise InputError(f"{folder}: was changed while it was measured; measure it again")
    return record


def make_record(
    folder: Path, plan: Plan, job: Job, outcome: dict[str, Any], device: Device, command: str, started: str
) -> Record:
    """The record of what a measuring process reported, judged. Raises InputError for what no record may say."""
    try:
        return _made_record(folder, plan, job, outcome, device, command, started)
    except ValidationError as error:
        raise InputError(f"{folder}: its record: {first_problem(error)}") from None


def _made_record(
    folder: Path, plan: Plan, job: Job, outcome: dict[str, Any], device: Device, command: str, started: str
) -> Record:
    verdict, reasons = judge(outcome, len(job.items), plan.timed, plan.max_temperature)
    facts = bundle_facts(folder)
    manifest = read_manifest(folder)
    settings = plan.settings(outcome["vision_tokens"], outcome["provider"], outcome.get("files_dropped"))
    kv = (facts.kv_bytes_per_token or 0) * manifest.context_capacity
    return Record.model_validate({
        "schema_version": SCHEMA_VERSION, "started": started, "command": command,
        "harness": f"himix-edge {version('himix-edge')}",
        "device": device, "bundle": facts, "settings": settings,
        "samples": outcome["samples"], "memory": {**outcome["memory"], "kv_cache_bytes": kv},
        "readings": outcome["readings"], "energy_j": outcome["energy_j"],
        "harness_overhead": outcome["harness_overhead"], "self_test_passed": outcome["self_test_passed"],
        "answers": outcome["answers"], "verdict": verdict, "reasons": reasons, "versions": outcome["versions"],
        **{name: outcome[name] for name in LATER if name in outcome},
    })  # fmt: skip


def run_worker(kind: str, job: Job, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """`worker` in a new process. Raises what it reports, or InputError with its last line if it died."""
    with tempfile.TemporaryDirectory() as scratch:
        file, errors = Path(scratch) / "job.json", Path(scratch) / "errors"
        file.write_text(json.dumps(job.to_dict()), encoding="utf-8")
        command = [sys.executable, "-m", "himix_edge.bench.worker", kind, str(file)]
        with errors.open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            try:
                outcome = follow(process.stdout, progress)
            except BaseException:
                process.kill()
                raise
        if outcome is None:
            said = last_line(errors.read_text(errors="replace"))
            raise InputError(
                f"{job.bundle}: the measuring process ended with code {process.returncode}"
                + (" (killed; out of memory?)" if process.returncode == -9 else "")
                + (f": {said}" if said else "")
            )
        return outcome


def drop_page_cache(folder: Path) -> bool:
    """Let the kernel forget a bundle's files, so that opening it reads the disk; False where that cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        for record in all_files(read_manifest(folder)):
            with (folder / record.path).open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}; the bundle is being changed") from None
    return True


def now() -> str:
    """The time in UTC as a record states it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
