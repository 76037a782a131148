"""Our bundles against llama.cpp and onnxruntime-genai: the same decoder shape and random weights, in one run.

    python -m benchmarks.peers [PRESET] [--keep DIR] [--rounds N] [--targets LIST] [--genai PYTHON]

The peers run LLaVA-style: 728 image tokens and 64 of text all pass through the decoder. Ours inject the image, then
prefill 64. Each runtime is timed in processes of its own, all of them in turn, N times; the table has medians, and the
ratio to llama.cpp's Q4_0. Needs llama-cpp-python (pip install 'himix-edge[peers]'; it compiles llama.cpp); for
onnxruntime-genai see benchmarks.full_size. Run it on an idle machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.progress import track

from benchmarks import llama_cpp
from benchmarks.full_size import build_genai, genai_timings
from benchmarks.timing import bundle_timings, report, timed_apart
from himix_edge.bundle import open_verified
from himix_edge.cli.console import print_table

BASE = "llama.cpp q4_0"
COMPARED = {  # what of ours stands against which time of theirs
    "injection + prefill 64 behind 728": "prefill 792",
    "prefill 792": "prefill 792",
    "prefill 64": "prefill 64",
    "token at 792": "token at 792",
}


def bundle(name: str, target: str, folder: Path) -> Path:
    """`himix export` of the preset in int4, unless it is there already."""
    out = folder / f"{name}-{target}-int4"
    if not out.exists():
        command = [sys.executable, "-m", "himix_edge", "export", "--random-weights", "--model", name, "--quant", "int4"]
        subprocess.run([*command, "--target", target, "--capacity", "1024", "--out", str(out)], check=True)
    return out


def measure(runs: dict[str, tuple[str, Path]], rounds: int) -> dict[str, dict[str, float]]:
    """Runtime -> case -> median of all rounds."""
    times: dict[str, dict[str, list[float]]] = {label: {} for label in runs}
    for _ in track(range(rounds), "timing"):
        for label, (kind, path) in runs.items():
            for case, values in timed_apart("benchmarks.peers", kind, path).items():
                times[label].setdefault(case, []).extend(values)
    found = {label: {case: median(values) for case, values in cases.items()} for label, cases in times.items()}
    for cases in found.values():
        if "injection" in cases:
            cases["injection + prefill 64 behind 728"] = cases["injection"] + cases["prefill 64 behind 728"]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="qwen2-0.5b")
    parser.add_argument("--keep", type=Path, help="folder for bundles and files; those already there are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--targets", default="onnx,openvino,executorch")
    parser.add_argument("--genai", metavar="PYTHON", help="also onnxruntime-genai's export, built by this interpreter")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, path = arguments.worker[0], Path(arguments.worker[1])
        workers = {"llama.cpp": llama_cpp.timings, "genai": genai_timings}
        report(workers[kind](path) if kind in workers else bundle_timings(open_verified(path)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = {}
        for kind in llama_cpp.KINDS:
            path = folder / f"{arguments.preset}-{kind}.gguf"
            if not path.exists():
                llama_cpp.write_gguf(arguments.preset, kind, path)
            runs[f"llama.cpp {kind}"] = ("llama.cpp", path)
        if arguments.genai:
            made = build_genai(arguments.preset, arguments.genai, Path(tempfile.mkdtemp(dir=scratch)))
            runs["onnxruntime-genai"] = ("genai", made)
        for target in arguments.targets.split(","):
            runs[f"himix {target}"] = ("bundle", bundle(arguments.preset, target, folder))
        found = measure(runs, arguments.rounds)
        rows = [
            (label, case, value, found[BASE][COMPARED[case]] / value if case in COMPARED else float("nan"))
            for label, cases in found.items() for case, value in cases.items()
        ]  # fmt: skip
    print_table(f"{arguments.preset}, int4", ("runtime", "case", "median ms", "times faster than Q4_0"), rows)


if __name__ == "__main__":
    main()
