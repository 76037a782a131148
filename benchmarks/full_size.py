"""The paper's decoders at their real size, with random weights: export, size, HiMix against vanilla in ONNX Runtime.

    python -m benchmarks.full_size [PRESET ...] [--rounds N] [--keep DIR]

For each preset: `himix export --random-weights --quant int4` as a process of its own (time and peak memory are the
operating system's account of it), the decoder's bytes beside those of llama.cpp's Q4_0 for the same matrices, and the
medians of runs in alternating processes: HiMix's prefill of 64 tokens behind 728 vision slots, the vanilla prefill of
all 792, and a token at 792. Vanilla's decoder graph is the same file: with all 792 as tokens it is the vanilla model.
Run it on an idle machine.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from rich.progress import track

from benchmarks.processes import himix, measured
from benchmarks.timing import timed_apart
from himix_edge.checkpoints.source import random_source
from himix_edge.cli.console import print_table
from himix_edge.presets import preset
from himix_edge.runtimes.verifying import open_verified

PRESETS = ("qwen2-0.5b", "tinyllama-1.1b", "llama-3.2-1b", "llama-3.2-3b")


def export(name: str, out: Path) -> tuple[float, float]:
    """Seconds and peak bytes of the export."""
    options = ("--target", "onnx", "--quant", "int4", "--random-weights", "--model", name, "--out", str(out))
    return measured(himix("export", *options))


def weight_bytes(name: str) -> tuple[int, int]:
    """bfloat16 bytes of all parameters, and Q4_0 bytes of the decoder's: 18 for 32 weights, vectors float32."""
    shapes = {n: w.shape for n, w in random_source(preset(name), name).weights.items()}
    bf16 = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    decoder = [s for n, s in shapes.items() if not n.startswith("vision_tower") and "_img" not in n]
    return bf16, sum(int(np.prod(s)) * 18 // 32 if len(s) == 2 else 4 * s[0] for s in decoder)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the bundles; those already there are not made again")
    arguments = parser.parse_args()
    made, timed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.presets:
            out = (arguments.keep or Path(scratch)) / name
            seconds, peak = export(name, out) if not out.exists() else (float("nan"), float("nan"))
            bundle, (bf16, q4_0) = open_verified(out), weight_bytes(name)
            decoder = sum(record.bytes for record in bundle.manifest.roles["decoder"])
            limit = (2.2 * bf16 + 2e9) / 1e9
            made.append((
                name, seconds, peak / 1e9, limit, bundle.bytes / 1e6, decoder / 1e6, q4_0 / 1e6, decoder / q4_0
            ))  # fmt: skip
            times: dict[str, list[float]] = {}
            for _ in track(range(arguments.rounds), f"timing {name}"):
                for case, values in timed_apart("benchmarks.bundles", out).items():
                    times.setdefault(case, []).extend(values)
            medians = {case: median(values) for case, values in times.items()}
            timed += [(name, case, value, min(times[case]), max(times[case])) for case, value in medians.items()]
            ratio = medians["prefill 792"] / medians["prefill 64 behind 728"]
            timed.append((name, "vanilla prefill / HiMix prefill", ratio, float("nan"), float("nan")))
    print_table("Exports", ("preset", "s", "peak GB", "limit GB", "bundle MB", "decoder MB", "Q4_0 MB", "ratio"), made)
    print_table("Latency in ms", ("preset", "case", "median", "least", "most"), timed)


if __name__ == "__main__":
    main()
