"""Our bundles against other runtimes: the same decoder shape and random weights, in one run.

    python -m benchmarks.peers [PRESET] [--group-size G] [--keep DIR] [--rounds N] [--targets LIST] [--peers LIST]

The peers run LLaVA-style: 728 image tokens and 64 of text all pass through the decoder. Ours inject the image, then
prefill 64; their vanilla model is the same decoder graph given all 792. Each runtime is timed in processes of its own,
all of them in turn, N times; the tables have medians, and the ratio to llama.cpp's Q4_0. 4-bit weights share a scale in
groups of G columns, but llama.cpp's always of 32. Needs pip install
'himix-edge[peers]' (it compiles llama.cpp); onnxruntime-genai is installed in an environment of its own. Run it on an
idle machine.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.progress import track

from benchmarks import bundles
from benchmarks.peers import huggingface, llama_cpp, onnxruntime_genai, optimum_onnxruntime, optimum_openvino
from benchmarks.timing import timed_apart
from himix_edge.cli.console import print_table
from himix_edge.export.quantization.policy import GROUP_SIZES

BASE = "llama.cpp q4_0"
OURS, VANILLA = "injection + prefill 64", "prefill 792"
COMPARED = {OURS: VANILLA, VANILLA: VANILLA, "prefill 64": "prefill 64", "token at 792": "token at 792"}
Times = dict[str, dict[str, float]]  # runtime -> case -> median milliseconds


@dataclass(frozen=True)
class Timed:
    """A runtime with its files: `python -m benchmarks.MODULE PATH`."""

    module: str
    path: Path
    options: tuple[str, ...] = ()  # the interpreter, if it isn't this one

    def times(self) -> dict[str, list[float]]:
        return timed_apart(f"benchmarks.{self.module}", self.path, *self.options)


class Files:
    """What the runtimes read, in one folder; files that are there already are taken as they are."""

    def __init__(self, preset: str, folder: Path, group_size: int):
        self.preset, self.folder, self.group_size = preset, folder, group_size

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / f"{self.preset}-{name}"
        if not path.exists():
            make(path)
        return path

    def in_groups(self, name: str, make: Callable[[Path], object]) -> Path:
        """Files whose 4-bit weights come in groups of this run's size."""
        return self.made(name if self.group_size == 32 else f"{name}-g{self.group_size}", make)

    def model(self) -> Path:
        """A Hugging Face folder, what the other exporters start from."""
        return self.made("huggingface", lambda out: huggingface.write_model(self.preset, out))

    def gguf(self, kind: str) -> Timed:
        path = self.made(f"{kind}.gguf", lambda out: llama_cpp.write_gguf(self.preset, kind, out))
        return Timed("peers.llama_cpp", path)

    def genai(self) -> Timed:
        python = onnxruntime_genai.install(self.folder / "genai-environment")
        path = self.in_groups("genai", lambda out: onnxruntime_genai.build(self.model(), out, self.group_size, python))
        return Timed("peers.onnxruntime_genai", path, (python,))

    def openvino(self, module: str) -> Timed:
        path = self.in_groups(
            "optimum-openvino", lambda out: optimum_openvino.build(self.model(), out, self.group_size)
        )
        return Timed(f"peers.{module}", path)

    def optimum(self) -> Timed:
        path = self.made("optimum-onnx", lambda out: optimum_onnxruntime.build(self.model(), out))
        return Timed("peers.optimum_onnxruntime", path)

    def bundle(self, target: str) -> Timed:
        path = self.in_groups(f"{target}-int4", lambda out: bundles.build(self.preset, target, out, self.group_size))
        return Timed("bundles", path)


PEERS: dict[str, Callable[[Files], Timed]] = {
    "llama.cpp q4_0": lambda files: files.gguf("q4_0"),
    "llama.cpp q8_0": lambda files: files.gguf("q8_0"),
    "onnxruntime-genai int4": Files.genai,
    "OpenVINO by optimum-intel int4": lambda files: files.openvino("optimum_openvino"),
    "openvino-genai int4": lambda files: files.openvino("openvino_genai"),
    "optimum ORTModel int8": Files.optimum,
}


def measure(runs: dict[str, Timed], rounds: int) -> Times:
    """Medians of all rounds."""
    times: dict[str, dict[str, list[float]]] = {label: {} for label in runs}
    for _ in track(range(rounds), "timing"):
        for label, run in runs.items():
            for case, values in run.times().items():
                times[label].setdefault(case, []).extend(values)
    found = {label: {case: median(values) for case, values in cases.items()} for label, cases in times.items()}
    for cases in found.values():
        if "injection" in cases:
            cases[OURS] = cases["injection"] + cases["prefill 64 behind 728"]
    return found


def table(found: Times) -> list[tuple[str, ...]]:
    """A row for each runtime: the image and the text in, text alone, a token; each with its ratio to the base."""
    rows = []
    for label, cases in found.items():
        cells = []
        for case in (OURS, VANILLA, "prefill 64", "token at 792"):
            ratio = f" ({found[BASE][COMPARED[case]] / cases[case]:.2f}x)" if case in cases and BASE in found else ""
            cells.append(f"{cases[case]:.1f}{ratio}" if case in cases else "")
        parts = " + ".join(f"{cases[c]:.0f}" for c in ("injection", "prefill 64 behind 728") if c in cases)
        rows.append((label, *cells, parts, f"{cases[VANILLA] / cases[OURS]:.1f}" if OURS in cases else ""))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="qwen2-0.5b")
    parser.add_argument("--group-size", type=int, choices=GROUP_SIZES, default=32)
    parser.add_argument("--keep", type=Path, help="folder for bundles and files; those already there are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--targets", default="onnx,openvino,executorch")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of: {', '.join(PEERS)}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(arguments.preset, arguments.keep or Path(scratch), arguments.group_size)
        files.folder.mkdir(parents=True, exist_ok=True)
        runs = {name: PEERS[name](files) for name in arguments.peers.split(",")}
        runs |= {f"himix {target}": files.bundle(target) for target in arguments.targets.split(",")}
        found = measure(runs, arguments.rounds)
    columns = (
        "runtime",
        f"HiMix: {OURS}",
        VANILLA,
        "prefill 64",
        "token at 792",
        "injection + prefill",
        "vanilla / HiMix",
    )
    print_table(
        f"{arguments.preset}, groups of {arguments.group_size}: median ms (times faster than {BASE})",
        columns,
        table(found),
    )


if __name__ == "__main__":
    main()
