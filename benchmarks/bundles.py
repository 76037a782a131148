"""Our bundles of a preset with random weights, and their timings."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.timing import DECODED, TEXT, VISION, Timings, milliseconds, report
from himix_edge.bundle import Bundle
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.verifying import open_verified


def build(name: str, target: str, out: Path, group_size: int) -> None:
    """`himix export` of the preset in int4, with a tower of 728 image tokens."""
    options = ["--random-weights", "--model", name, "--tower", "siglip-so400m", "--quant", "int4", "--target", target]
    options += ["--group-size", str(group_size)]
    command = [sys.executable, "-m", "himix_edge", "export", *options, "--capacity", "1024", "--out", str(out)]
    subprocess.run(command, check=True)


def timings(bundle: Bundle) -> Timings:
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


if __name__ == "__main__":
    report(timings(open_verified(Path(sys.argv[1]))))
