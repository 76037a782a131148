"""Watches workers: a parser that hangs or takes the process down is a finding, and the next input goes on behind it."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS

START = 120  # seconds until a worker has imported its libraries and read the seeds
KILL_MEMORY = 6 << 30


@dataclass
class Outcome:
    """What became of one target's inputs."""

    target: str
    inputs: int = 0
    taken: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)  # number of the input, what happened


def fuzz(
    names: Sequence[str], material: Path, first: int, last: int, report: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Feed each target the inputs from `first` up to `last`, that one left out, one target after the other."""
    outcomes = []
    for name in names:
        outcome = Outcome(name)
        begin = first
        while begin < last:
            begin = _run(outcome, material, begin, last)
        outcome.inputs = last - first
        report(outcome)
        outcomes.append(outcome)
    return outcomes


def _run(outcome: Outcome, material: Path, first: int, last: int) -> int:
    """One worker, up to its end; returns the number of the next input to feed."""
    with tempfile.TemporaryDirectory(prefix="himix-fuzz-") as scratch:
        progress, report, jobs = (Path(scratch) / name for name in ("progress", "report", "jobs.json"))
        progress.write_bytes(struct.pack("<qq", -1, 0))
        job = {"target": outcome.target, "first": first, "last": last, "material": str(material)}
        jobs.write_text(json.dumps([{**job, "progress": str(progress), "report": str(report)}]))
        with (Path(scratch) / "err").open("w+") as err:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", str(jobs)], stdout=subprocess.DEVNULL, stderr=err,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": scratch}, start_new_session=True,
            )  # fmt: skip
            killed = _watch(worker, progress, TARGETS[outcome.target].seconds)
            number, taken = struct.unpack("<qq", progress.read_bytes())
            outcome.taken += taken
            if report.exists():
                outcome.findings += [tuple(json.loads(line)[1:]) for line in report.read_text().splitlines()]
            if number == last and worker.returncode == 0:
                return last
            err.seek(0)
            said = " ".join(err.read()[-400:].split())
            if number < 0:
                raise RuntimeError(f"{outcome.target}: the worker did not start: {killed or worker.returncode} {said}")
            outcome.findings.append((number, killed or f"the process ended with {worker.returncode}: {said}"))
            return number + 1


def _watch(worker: subprocess.Popen[bytes], progress: Path, seconds: float) -> str:
    """Wait for the end; after more than `seconds` at one input, or 6 GiB, kill and say so."""
    last, since = -1, time.monotonic()
    while worker.poll() is None:
        time.sleep(0.05)
        number = struct.unpack("<q", progress.read_bytes()[:8])[0]
        if number != last:
            last, since = number, time.monotonic()
        killed = ""
        if time.monotonic() - since > (START if last < 0 else seconds):
            killed = f"hung for more than {START if last < 0 else seconds:.0f} s"
        elif _resident(worker.pid) > KILL_MEMORY:
            killed = f"took more than {KILL_MEMORY >> 30} GiB"
        if killed:
            worker.kill()
            worker.wait()
            return killed
    return ""


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
