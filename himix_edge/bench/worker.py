"""One measuring process: `python -m himix_edge.bench.worker measure|load JOB.json` prints JSON lines.

A line is {"progress": [done, of]}, or at the end {"outcome": ...} or {"error": text, "exit_code": number}. `load` only
opens the bundle and says how long that took.
"""

import importlib
import json
import logging
import sys
import time
from pathlib import Path

from himix_edge.bench.cores import bind
from himix_edge.bench.host import installed_version
from himix_edge.bench.job import Job
from himix_edge.bench.measuring import Loaded, Measurement
from himix_edge.bench.probes import Probe, memory_facts, reset_peak_memory, resident_bytes
from himix_edge.bench.session_subject import SessionSubject
from himix_edge.bundle import read_manifest
from himix_edge.errors import HimixError
from himix_edge.runtimes.loading import CPU
from himix_edge.runtimes.opening import open_bundle
from himix_edge.runtimes.registry import Provider, find_runtime, missing_packages
from himix_edge.runtimes.selftest import self_test
from himix_edge.runtimes.session import Session


def main() -> None:
    """Entry point."""
    logging.getLogger().setLevel(logging.WARNING)
    kind, file = sys.argv[1:]
    job = Job.from_dict(json.loads(Path(file).read_text(encoding="utf-8")))
    try:
        outcome = load(job)[1] if kind == "load" else measure(job)
    except HimixError as error:
        say({"error": str(error), "exit_code": error.exit_code})
        return
    say({"outcome": outcome})


def load(job: Job) -> tuple[Session, Loaded]:
    """Open the bundle in this fresh process; milliseconds of it, and the memory before."""
    threads = job.threads
    if job.cores is not None:  # before any of the runtime's threads is there; it would start one for every core
        bound = bind(job.cores)
        threads = threads or bound
    runtime = find_runtime(read_manifest(Path(job.bundle)).target)
    for module in runtime.modules:  # the time is the bundle's, not that of the Python packages
        with missing_packages(runtime):
            importlib.import_module(module)
        logging.getLogger().setLevel(logging.WARNING)  # some of them set it to INFO
    reset_peak_memory()
    baseline, began = resident_bytes(), time.perf_counter()
    session = open_bundle(job.bundle, threads, job.provider)
    return session, {"load": (time.perf_counter() - began) * 1000, "baseline_bytes": baseline}


def measure(job: Job) -> dict[str, object]:
    """Open, self-test, measure."""
    session, loaded = load(job)
    passed = bool(self_test(Path(job.bundle), session)["passed"])
    subject = SessionSubject(session, job.new_tokens, job.depth_ids, job.vision_tokens, job.ignore_stop)
    outcome = Measurement(subject, job, Probe(), lambda done, of: say({"progress": [done, of]})).run()
    outcome["samples"]["load"] = [loaded["load"]]
    runtime = find_runtime(read_manifest(Path(job.bundle)).target)
    provider = runtime.provider() if session.device == CPU else Provider(session.device)
    notes = list(provider.notes)
    if job.provider not in (None, session.device):
        notes.append(f"{job.provider} was asked for and did not pass the bundle's self-test: the CPU computed")
    return {
        **outcome,
        "memory": memory_facts(loaded["baseline_bytes"]),
        "self_test_passed": passed,
        "provider": provider.name,
        "notes": notes,
        "versions": {
            name: found for name in sorted({*runtime.packages, "numpy"}) if (found := installed_version(name))
        },
    }


def say(message: dict[str, object]) -> None:
    """One line to whoever started this process."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
