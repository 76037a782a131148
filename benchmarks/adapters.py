"""What places for adapters cost: `python -m benchmarks.adapters [PRESET] [--rank 16]`, ratios in ONNX Runtime, int8.

Two bundles of one model with random weights, with places and without, are exported and timed in turns in one process:
a prompt of 64 tokens behind an image, and a token behind both; on one thread, in its CPU time.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.timing import TEXT
from himix_edge.adapter_file import Adapter
from himix_edge.export.pipeline import ExportRequest, export, is_current, plan
from himix_edge.low_rank import DOWN, UP, adapter_linears
from himix_edge.manifest import read_manifest
from himix_edge.runtimes import Session, open_bundle

ROUNDS, TOKENS = 25, 16
FOLDER = Path("build/adapters")


def bundle(preset: str, rank: int) -> Path:
    """The preset's bundle with places for this rank, made if it is not there."""
    out = FOLDER / f"{preset}-{rank}"
    request = ExportRequest(preset, "onnx", "int8", out, probe_questions=2, random_weights=preset != "nano",
                            adapter_rank=rank, force=True)  # fmt: skip
    asked = plan(request)
    if not is_current(asked):
        export(asked, print)
    return out


def timed(session: Session) -> tuple[float, float]:
    """Milliseconds of a prompt behind an image, and of a token behind both."""
    decoder, engine = session.config.decoder, session.engine
    slots = session.config.tile_tokens
    image = np.zeros((session.config.num_vision_rows, decoder.num_key_value_heads, slots, decoder.head_dim), np.float32)
    engine.start(image, image, 0)
    began = time.thread_time()
    engine.step(np.arange(TEXT, dtype=np.int64))
    behind = time.thread_time()
    for _ in range(TOKENS):
        engine.step(np.array([1], np.int64))
    return 1e3 * (behind - began), 1e3 * (time.thread_time() - behind) / TOKENS


def main() -> None:
    """Export, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="nano")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    places = bundle(options.preset, options.rank)
    plain, empty, used = (open_bundle(folder, threads=1) for folder in (bundle(options.preset, 0), places, places))
    manifest = read_manifest(places)
    assert manifest.adapters is not None
    ones = {
        name + kind: np.full(shape, 1e-3, np.float32)
        for name, (columns, rows) in adapter_linears(used.config).items()
        for kind, shape in ((DOWN, (columns, options.rank)), (UP, (options.rank, rows)))
    }
    used.use_adapter(Adapter(ones, options.rank, manifest.adapters.base, "ones"))
    cases = {"without places": plain, "no adapter in use": empty, f"rank {options.rank} in use": used}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, session in cases.items():
            times[name].append(timed(session))
    base = [median(column) for column in zip(*times["without places"], strict=True)]
    for name, found in times.items():
        made = [median(column) for column in zip(*found, strict=True)]
        ratios = [mine / theirs for mine, theirs in zip(made, base, strict=True)]
        print(f"{name}: prompt {made[0]:.2f} ms ({ratios[0]:.2f}x), token {made[1]:.2f} ms ({ratios[1]:.2f}x)")


if __name__ == "__main__":
    main()
