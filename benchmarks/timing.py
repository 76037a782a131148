"""Times a decoder's parts in a process of its own: thread pools that wait by spinning would slow each other."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from himix_edge.bundle import Bundle
from himix_edge.runtimes.engine import load_engine

VISION, TEXT, DECODED = 728, 64, 32  # image tokens, prompt tokens, and tokens timed behind both
RUNS, WARM_UPS = 3, 2  # of each case in one process
Timings = dict[str, Callable[[], float]]


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def bundle_timings(bundle: Bundle) -> Timings:
    """Milliseconds of a bundle's injection, of one prefill or of one token, by name.

    Vanilla's decoder graph is the same file: with all 792 as tokens it is the vanilla model.
    """
    config, engine = bundle.config, load_engine(bundle)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, VISION, config.vision_hidden_size or 1)).astype(np.float32)
    shape = (2, config.num_vision_rows, config.decoder.num_key_value_heads, VISION, config.decoder.head_dim)
    vision = rng.standard_normal(shape).astype(np.float32)
    nothing = vision[:, :, :, :0]
    tokens = rng.integers(config.decoder.vocab_size, size=VISION + TEXT)

    def prefill(kv: np.ndarray, ids: np.ndarray) -> float:
        return milliseconds(lambda: (engine.start(kv[0], kv[1], 0), engine.step(ids)))

    def decode() -> float:
        prefill(vision, tokens[:TEXT])
        return milliseconds(lambda: [engine.step(tokens[i : i + 1]) for i in range(DECODED)]) / DECODED

    return {
        "injection": lambda: milliseconds(lambda: engine.inject(features)),
        "prefill 64 behind 728": lambda: prefill(vision, tokens[:TEXT]),
        "prefill 64": lambda: prefill(nothing, tokens[:TEXT]),
        "prefill 792": lambda: prefill(nothing, tokens),
        "token at 792": decode,
    }


def report(cases: Timings) -> None:
    """Run every case and print its times as JSON: what `timed_apart` reads."""
    print(json.dumps({case: [run() for _ in range(WARM_UPS + RUNS)][WARM_UPS:] for case, run in cases.items()}))


def timed_apart(module: str, kind: str, path: Path) -> dict[str, list[float]]:
    """Case -> times of `python -m MODULE --worker KIND PATH`, a new process that calls `report`."""
    command = [sys.executable, "-m", module, "--worker", kind, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    timings: dict[str, list[float]] = json.loads(output.splitlines()[-1])
    return timings
