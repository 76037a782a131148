"""The twelve bundles of nano: every target and precision, against PyTorch on the same weights.

    python -m benchmarks.four_targets [--questions N] [--keep DIR]

For each precision the model is quantised once; each target is exported with its checks and asked the first N questions
of the easy-VQA test split. Seconds are those of an export with its checks (the first of a precision also quantises and
asks the reference); a bundle that --keep already holds is taken as it is. "tokens equal" is the share of questions
whose greedy token ids are those of PyTorch on the dequantised weights. int4 rounded to nearest stands beside the
calibrated one in PyTorch.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from himix_edge.bundle import Bundle, GenerationDefaults
from himix_edge.cli.console import print_table, progress_console
from himix_edge.data import Dataset, load_dataset
from himix_edge.errors import GateRefused
from himix_edge.evaluation.exact import Score
from himix_edge.export.pipeline import ExportRequest, export_all, is_current, plan, quantized_model
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.export.report import worst
from himix_edge.export.targets import find_targets
from himix_edge.runtimes import Session, open_bundle
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.runtimes.verifying import open_verified

Answers = list[list[int | None]]


def ask(session: Session, dataset: Dataset, questions: int, label: str) -> tuple[Answers, float]:
    """Token ids of each greedy answer, and the share of exactly right ones."""
    answers: Answers = []
    score = Score()
    with progress_console.status(label) as status:
        for sample in dataset.samples:
            image = session.encode_image(sample.image) if sample.image else None
            for conversation in sample.conversations:
                if len(answers) == questions:
                    return answers, score.accuracy
                pieces = list(session.generate(conversation[0].question, image, temperature=0))
                answers.append([piece.token_id for piece in pieces])
                score.add(conversation[0], "".join(piece.text for piece in pieces))
                status.update(f"{label}: {len(answers)} of {questions}")
    return answers, score.accuracy


def pytorch(request: ExportRequest) -> Session:
    """The reference of a request: PyTorch on the dequantised weights."""
    work = plan(request)
    reference = quantized_model(work).reference
    engine = PytorchEngine(reference, reference.config.decoder.max_position_embeddings)
    return Session(engine, work.source.load_text(), reference.config, "", GenerationDefaults())


def made(requests: list[ExportRequest]) -> Iterator[tuple[Bundle, str]]:
    """Bundles and the seconds that each took; those that are there already first."""
    plans = [plan(request) for request in requests]
    current = [work for work in plans if is_current(work)]
    yield from ((open_verified(work.request.out), "") for work in current)
    began = time.monotonic()
    for bundle in export_all([work for work in plans if work not in current]):
        if isinstance(bundle, GateRefused):
            raise SystemExit(str(bundle))
        yield bundle, f"{time.monotonic() - began:.0f}"
        began = time.monotonic()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder for the bundles")
    arguments = parser.parse_args()
    dataset = load_dataset("easy-vqa", "test")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        for precision in POLICIES:
            requests = [
                ExportRequest(arguments.model, target, precision, folder / f"nano-{target}-{precision}", force=True)
                for target in find_targets("all")
            ]
            expected, accuracy = ask(pytorch(requests[0]), dataset, arguments.questions, f"PyTorch {precision}")
            rows.append(("PyTorch", precision, "", accuracy, "", "", "", ""))
            if precision == "int4":
                nearest = dataclasses.replace(requests[0], rounding="nearest")
                _, accuracy = ask(pytorch(nearest), dataset, arguments.questions, "PyTorch int4, nearest")
                rows.append(("PyTorch", "int4, nearest", "", accuracy, "", "", "", ""))
            for bundle, seconds in made(requests):
                answers, accuracy = ask(open_bundle(bundle.folder), dataset, arguments.questions, bundle.folder.name)
                same = sum(a == b for a, b in zip(answers, expected, strict=True)) / len(expected)
                rows.append((
                    bundle.manifest.target, precision, f"{bundle.bytes / 1e6:.1f}", accuracy, f"{same:.2%}",
                    worst(bundle, "packed"), worst(bundle, "runtime"), seconds,
                ))  # fmt: skip
                progress_console.print(*rows[-1])  # what is known if the rest is cut off
    columns = ("runtime", "weights", "MB", "accuracy", "tokens equal", "exact: worst", "as it ships: worst", "export s")
    print_table(f"{arguments.questions} questions, {psutil.cpu_count(logical=False)} cores", columns, rows)


if __name__ == "__main__":
    main()
