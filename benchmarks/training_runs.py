"""The training runs behind the results page: HiMix and vanilla, both recipes, three seeds, and the ablations.

    python -m benchmarks.training_runs [--jobs 2] [--only PATTERN ...] [--graphs | --compile] [--set NAME=VALUE ...]

Each is one `himix train` command, printed as it starts, in runs/NAME; finished ones are left alone and killed ones go
on. On 2 cores two nano runs take half an hour beside each other (OMP_NUM_THREADS=1 --jobs 2), a small one half an
hour to two hours, alone and with --compile. `python -m benchmarks.training_results` keeps the records of finished runs
and makes the page.
"""

import argparse
import fnmatch
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

VANILLA = ("--vanilla",)
EVERY_SECOND = ("--injection-layers", ",".join(map(str, range(0, 30, 2))))
SMALL_TESTS = (
    "[{name: emoji-scenes, split: test, samples: 500}, {name: emoji-scenes, split: test-style, samples: 500}, "
    "{name: emoji-scenes, split: test-unseen, samples: 250}, {name: emoji-scenes, split: test-wordings, samples: 500}]"
)  # the same as those of the recipes `regular` and `enhanced`
RUNS: dict[str, tuple[str, ...]] = {
    f"nano-{recipe}{suffix}-{seed}": ("--recipe", f"nano-{recipe}", *options, "--seed", str(seed))
    for recipe in ("regular", "enhanced")
    for suffix, options in (("", ()), ("-vanilla", VANILLA))
    for seed in range(3)
}
RUNS |= {
    f"nano-regular-{name}": ("--recipe", "nano-regular", *options)
    for name, options in {
        "first-half": ("--injection-layers", "0,1"),
        "second-half": ("--injection-layers", "2,3"),
        "uniform": ("--sharing", "uniform"),
        "levels": ("--sharing", "levels", "--feature-layers", "-3,-1"),
        "pooled": ("--pooling", "2"),
        "blind": ("--set", "blind=true", "--set", "stages=[{name: finetune, learn: [decoder], steps: 1000, "
                  "learning_rate: 1.0e-3}]"),
    }.items()
}  # fmt: skip
RUNS |= {
    "small-enhanced": ("--recipe", "enhanced"),
    "small-further": ("--recipe", "further", "--set", "model=runs/small-enhanced/final", "--set", "finetune.steps=600",
                      "--set", f"tests={SMALL_TESTS}"),
    "small-enhanced-vanilla": ("--recipe", "enhanced", *VANILLA),
    "small-regular": ("--recipe", "regular"),
    "small-regular-vanilla": ("--recipe", "regular", *VANILLA),
    "small-regular-all-layers": ("--recipe", "regular", "--set", "injection_layers=null"),
    "small-regular-every-second": ("--recipe", "regular", *EVERY_SECOND),
    "small-regular-blind": ("--recipe", "regular", "--set", "blind=true", "--set",
                            "stages=[{name: finetune, learn: [decoder], steps: 400, learning_rate: 5.0e-4}]"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the training runs of the results page.")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", nargs="+", default=["*"], help="names or patterns of runs")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches, for each run")
    parser.add_argument("--pixels", type=Path, help="folder to keep resized images in, shared by all runs")
    parser.add_argument("--graphs", action="store_true", help="on a GPU: record and repeat steps")
    parser.add_argument("--compile", action="store_true", help="compile the decoder's layers; for small on a CPU too")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="NAME=VALUE, for every run")
    arguments = parser.parse_args()
    names = [name for name in RUNS if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.only)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        codes = list(pool.map(lambda name: run(name, arguments), names))
    sys.exit(any(codes))


def run(name: str, arguments: argparse.Namespace) -> int:
    """One run, its output in a file beside it; 0 if it is finished."""
    folder = arguments.out / name
    if finished(folder):
        print(f"{name}: done already")
        return 0
    command = [sys.executable, "-m", "himix_edge", "train", *RUNS[name], "--out", str(folder)]
    command += ["--workers", str(arguments.workers)]
    command += ["--pixels", str(arguments.pixels)] if arguments.pixels else []
    command += ["--graphs"] if arguments.graphs else []
    command += ["--compile"] if arguments.compile else []
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    command += ["--resume"] if (folder / "last").exists() else []
    print(" ".join(command), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.txt").open("a") as output:  # a run's folder holds nothing but its own
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    print(f"{name}: exit code {code}" if code else f"{name}: done", flush=True)
    return code


def finished(folder: Path) -> dict[str, Any]:
    """What a run says of itself; empty until its tests are done."""
    path = folder / "final" / "provenance.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return record if "tests" in record else {}


if __name__ == "__main__":
    main()
