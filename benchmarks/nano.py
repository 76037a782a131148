"""The README's tables: each precision of the shipped nano in ONNX Runtime, exported, evaluated and timed.

    python -m benchmarks.nano [--limit N] [--vanilla CHECKPOINT]

Export time and peak memory are of a whole process of their own (the operating system's account); latencies are
medians over 200 questions about different images, after 20 that are not counted. Run it on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.progress import track

from himix_edge.cli.console import print_table
from himix_edge.data import load_dataset
from himix_edge.runtimes import ImageKV, Session, Stats, open_bundle

STAGES = ("preprocess", "vision_encoder", "vision_injector", "prefill", "ttft")
WARM_UP, TIMED = 20, 200


def export(model: str, precision: str, out: Path) -> tuple[float, float]:
    """Seconds and peak MB of `himix export` as a process of its own."""
    command = [sys.executable, "-m", "himix_edge", "export", "--target", "onnx", "--quant", precision]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--model", model, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"export of {model} as {precision} failed")
    return time.monotonic() - began, usage.ru_maxrss / 1000


def latencies(bundle: Path) -> dict[str, float]:
    """Median milliseconds of each stage, of the time between tokens, and of the time to first token of a kept image."""
    session = open_bundle(bundle)
    times: dict[str, list[float]] = {name: [] for name in (*STAGES, "inter_token", "warm_ttft")}
    samples = load_dataset("easy-vqa", "test").samples[: WARM_UP + TIMED]
    for number, sample in enumerate(track(samples, f"timing {bundle.name}")):
        assert sample.image is not None
        question = sample.conversations[0][0].question
        cold = _answer_stats(session, question, sample.image)
        warm = _answer_stats(session, question, session.encode_image(sample.image))
        caption = _answer_stats(session, "Describe the image.", sample.image)
        if number >= WARM_UP:
            for name in STAGES:
                times[name].append(getattr(cold, name))
            times["warm_ttft"].append(warm.ttft)
            times["inter_token"] += caption.inter_token
    return {name: median(values) for name, values in times.items()}


def _answer_stats(session: Session, question: str, image: ImageKV | Path) -> Stats:
    for _ in session.generate(question, image, temperature=0):
        pass
    return session.stats


def accuracy(bundle: Path, limit: int | None) -> float:
    """Share of the test split's questions answered exactly, by `himix eval`."""
    command = [sys.executable, "-m", "himix_edge", "eval", "--bundle", str(bundle), "--json"]
    command += ["--limit", str(limit)] if limit else []
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["accuracy"])


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="evaluate on the first N questions only")
    parser.add_argument("--vanilla", help="a trained vanilla checkpoint to put beside HiMix")
    arguments = parser.parse_args()
    cases = [("nano", precision) for precision in ("none", "int8", "int4")]
    if arguments.vanilla:
        cases += [(arguments.vanilla, precision) for precision in ("none", "int8")]
    made, timed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (model, precision) in enumerate(cases):
            bundle = Path(scratch) / f"{number}-{precision}"
            seconds, memory = export(model, precision, bundle)
            size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6
            name = "HiMix" if model == "nano" else "vanilla"
            made.append((name, precision, size, seconds, memory, 100 * accuracy(bundle, arguments.limit)))
            timed.append((name, precision, latencies(bundle)))
    print_table("Bundles", ("model", "weights", "MB", "export s", "peak MB", "accuracy %"), made)
    columns = ("median ms", *(f"{name} {precision}" for name, precision, _ in timed))
    rows = [(stage, *(times[stage] for _, _, times in timed)) for stage in timed[0][2]]
    print_table("Latency", columns, rows)


if __name__ == "__main__":
    main()
