"""Predicted beside measured peak memory of bundles: `python -m benchmarks.memory BUNDLE [BUNDLE ...]`.

Each bundle is opened in a fresh process, with its runtime imported beforehand, and asked one question about one image.
The peak is VmHWM above the resident size before it was opened, as `himix bench` counts it. The error is that of the
prediction, for the cache that such a run has: where it grows, that is less than the bundle's capacity. Linux only.
"""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

from himix_edge.bench.probes import peak_bytes, reset_peak_memory, resident_bytes
from himix_edge.bundle import read_manifest
from himix_edge.cli.console import print_table
from himix_edge.memory import of_manifest, predict
from himix_edge.presets import SHIPPED
from himix_edge.runtimes.litert.engine import cache_sizes
from himix_edge.runtimes.opening import open_bundle
from himix_edge.runtimes.registry import find_runtime
from himix_edge.units import size

IMAGE = sorted((SHIPPED / "probe").glob("*.png"))[0]
SAID = 64  # slots, at most, of prompt and answer
PROMPT, NEW_TOKENS = "What color is it?", 12


def measure(folder: Path) -> dict[str, int]:
    """In this process, which has to be a fresh one: bytes above the empty runtime, while opening and in all."""
    for module in find_runtime(read_manifest(folder).target).modules:
        importlib.import_module(module)
    reset_peak_memory()
    before = resident_bytes() or 0
    session = open_bundle(folder)
    opening = peak_bytes() - before
    for _ in session.generate(PROMPT, image=IMAGE, max_new_tokens=NEW_TOKENS):
        pass
    return {"opening": opening, "peak": peak_bytes() - before}


def measured(folder: Path) -> dict[str, int]:
    """The same in a process of its own. Raises SystemExit with what it said if it failed."""
    command = [sys.executable, "-m", "benchmarks.memory", "--here", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def used_slots(target: str, vision_tokens: int, capacity: int) -> int:
    """Slots of the cache that a short answer about one image leaves allocated."""
    if target == "onnx_portable":
        return vision_tokens + SAID
    if target == "litert":
        return next(size for size in cache_sizes(capacity) if size >= vision_tokens + SAID)
    return capacity


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--here", action="store_true", help="measure the one bundle in this process, print JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.bundles[0])))
        return
    rows = []
    for folder in arguments.bundles:
        manifest, found = read_manifest(folder), measured(folder)
        model = of_manifest(folder, manifest)
        slots = used_slots(manifest.target, manifest.vision_tokens, manifest.context_capacity)
        told = predict(manifest.target, dataclasses.replace(model, capacity=slots))
        error = told.peak / found["peak"] - 1
        rows.append((manifest.name, size(found["opening"]), size(found["peak"]), size(told.peak), f"{error:+.1%}"))
    print_table("Memory to run", ("bundle", "opening", "peak", "predicted", "error"), rows)


if __name__ == "__main__":
    main()
