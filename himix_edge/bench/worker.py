"""One measuring process: `python -m himix_edge.bench.worker measure|load JOB.json` prints JSON lines.

A line is {"progress": [done, of]}, or at the end {"outcome": ...} or {"error": text, "exit_code": number}. `load` only
opens the bundle and says how long that took.
"""

import importlib
import json
import logging
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from himix_edge.bench.job import Job
from himix_edge.bench.measuring import Measurement
from himix_edge.bench.probes import Probe, peak_bytes, reset_peak_memory, resident_bytes
from himix_edge.bench.session_subject import SessionSubject
from himix_edge.bundle import read_manifest
from himix_edge.errors import BackendMissing, HimixError
from himix_edge.runtimes.opening import open_bundle
from himix_edge.runtimes.selftest import self_test
from himix_edge.runtimes.session import Session

# imported before the clock runs: `load` is the bundle's, not that of the Python packages
RUNTIME_MODULES = {
    "onnx": ("onnxruntime",),
    "onnx_portable": ("onnxruntime",),
    "openvino": ("openvino",),
    "executorch": ("torch", "executorch.runtime"),
    "coreml": ("torch", "coremltools"),
}


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


def load(job: Job) -> tuple[Session, dict[str, Any]]:
    """Open the bundle in this fresh process; milliseconds of it, and the memory before."""
    target = read_manifest(Path(job.bundle)).target
    for module in RUNTIME_MODULES.get(target, ()):
        try:
            importlib.import_module(module)
        except ImportError:
            raise BackendMissing(module.partition(".")[0], target.partition("_")[0]) from None
        logging.getLogger().setLevel(logging.WARNING)  # some of them set it to INFO
    reset_peak_memory()
    baseline, began = resident_bytes(), time.perf_counter()
    session = open_bundle(job.bundle, job.threads)
    return session, {"load": (time.perf_counter() - began) * 1000, "baseline_bytes": baseline}


def measure(job: Job) -> dict[str, Any]:
    """Open, self-test, measure."""
    session, loaded = load(job)
    manifest = read_manifest(Path(job.bundle))
    passed = bool(self_test(Path(job.bundle), session)["passed"])
    subject = SessionSubject(session, job.new_tokens, job.depth_ids, job.vision_tokens, job.ignore_stop)
    outcome = Measurement(subject, job, Probe(), lambda done, of: say({"progress": [done, of]})).run()
    outcome["samples"]["load"] = [loaded["load"]]
    notes = []
    provider = "cpu"
    if manifest.target == "coreml":
        provider = "core-ml" if sys.platform == "darwin" else "interpreter"
    if provider == "interpreter":
        notes.append("Core ML's reference interpreter ran it: the answers count, the times are no device's")
    packages = {module.partition(".")[0] for module in RUNTIME_MODULES.get(manifest.target, ())}
    return {
        **outcome,
        "memory": {"baseline_bytes": loaded["baseline_bytes"], "peak_bytes": peak_bytes()},
        "self_test_passed": passed,
        "provider": provider,
        "notes": notes,
        "versions": {name: found for name in sorted({*packages, "numpy"}) if (found := installed(name))},
    }


def installed(package: str) -> str | None:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def say(message: dict[str, Any]) -> None:
    """One line to whoever started this process."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
