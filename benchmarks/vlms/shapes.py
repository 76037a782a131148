"""Vision-language models at their published sizes with random weights, in every target: export, size, latency.

    python -m benchmarks.vlms.shapes [PRESET ...] [--targets LIST] [--rounds N] [--keep DIR]

For each preset and target: `himix export --random-weights --quant int4` as a process of its own (weights rounded to
nearest; the gate asks about one picture, which is five tiles for SmolVLM and the fewest for the others), and the
medians of `benchmarks.vlms.ours` in alternating processes. With --keep, bundles that are there already are not made
again. Run it on an idle machine.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks.processes import himix, measured
from benchmarks.timing import timed_apart
from himix_edge.checkpoints.source import random_source
from himix_edge.cli.console import print_table
from himix_edge.config import ModelConfig
from himix_edge.export.targets import target_names
from himix_edge.presets import preset
from himix_edge.runtimes.verifying import open_verified

PRESETS = ("smolvlm-256m", "llava-onevision-0.5b", "internvl3-1b", "fastvlm-0.5b")


def probe(config: ModelConfig, folder: Path) -> Path:
    """A question about a picture of few tiles, as a LLaVA file."""
    folder.mkdir(exist_ok=True)
    shape = (128, 512, 3) if config.images and config.images.strategy == "rows" else (256, 256, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    talk = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "Noise."}]
    path = folder / "probe.json"
    path.write_text(json.dumps([{"image": "picture.png", "conversations": talk}]))
    return path


def export(name: str, target: str, out: Path) -> tuple[float, float]:
    """Seconds and peak bytes, written beside the bundle; read from there if it was made before."""
    record = out.parent / f"{out.name}.json"
    if not out.exists():
        found = measured(
            himix(
                "export", "--random-weights", "--model", name, "--target", target, "--quant", "int4", "--out", str(out),
                "--rounding", "nearest", "--probe", str(probe(preset(name), out.parent / f"probe-{name}")),
            ), out.parent / f"{out.name}.log",
        )  # fmt: skip
        record.write_text(json.dumps(found))
    seconds, peak = json.loads(record.read_text())
    return seconds, peak


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--targets", default=",".join(target_names()))
    parser.add_argument("--rounds", type=int, default=3, help="0: exports alone")
    parser.add_argument("--keep", type=Path, help="folder for the bundles")
    arguments = parser.parse_args()
    made, timed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        for name in arguments.presets:
            bf16 = sum(2 * int(np.prod(w.shape)) for w in random_source(preset(name), name).weights.values())
            bundles = {target: keep / f"{name}-{target}" for target in arguments.targets.split(",")}
            for target, out in bundles.items():
                seconds, peak = export(name, target, out)
                size = open_verified(out).bytes / 1e6
                made.append((name, target, seconds, peak / 1e9, (2.2 * bf16 + 2e9) / 1e9, size, bf16 / 1e6))
            times: dict[tuple[str, str], list[float]] = {}
            for _ in track(range(arguments.rounds), f"timing {name}"):
                for target, out in bundles.items():
                    for case, values in timed_apart("benchmarks.vlms.ours", out).items():
                        times.setdefault((target, case), []).extend(values)
            timed += [(name, *where, median(values), min(values), max(values)) for where, values in times.items()]
    print_table("Exports", ("preset", "target", "s", "peak GB", "limit GB", "bundle MB", "bf16 MB"), made)
    print_table("Latency in ms", ("preset", "target", "case", "median", "least", "most"), timed)


if __name__ == "__main__":
    main()
