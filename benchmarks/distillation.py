"""HiMix of a vanilla model, without training and with: answers that are right, and answers that are the teacher's.

    himix train --recipe nano --vanilla --set all.steps=400 --out runs/teacher
    python -m benchmarks.distillation runs/teacher/final [--task easy-vqa] [--images easy-vqa] [--questions N]

Squares are of pooled tokens. Of students that learned from it, in place of those that are only solved:

    python -m benchmarks.distillation runs/teacher/final --only --also "solved + 100 steps=runs/distilled/final"

"Right" are questions of the task's test split that are answered exactly, with a 95% interval; "kept" are those answered
as the teacher does; with the image of another question, its answers tell what the questions alone give away. GFLOPs are
of the decoder: the injection of an image, and the prefill of a prompt of 64 tokens.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rich.progress import track

from himix_edge.bundle import GenerationDefaults
from himix_edge.checkpoints import Source, open_source
from himix_edge.checkpoints.assemble import assemble
from himix_edge.cli.console import print_table, progress_console
from himix_edge.config import Injection
from himix_edge.data import Turn, load_dataset, load_images
from himix_edge.distillation.student import Calibration, make_student
from himix_edge.evaluation.exact import interval, normalize
from himix_edge.evaluation.flops import count_flops
from himix_edge.preprocess import Picture
from himix_edge.runtimes import Session
from himix_edge.runtimes.pytorch_engine import PytorchEngine

NEW_TOKENS = 16
SQUARES = (2, 4)  # sides of pooled squares of tokens
MARKS = "*ods^"
MIXES, POOLED = re.compile(r"(solved, )?k = [0-9]+(, all layers)?"), re.compile(r"solved, squares of [0-9]+")
IMAGES = 512  # whose keys and values are kept at a time


def questions(task: str, count: int) -> Iterator[tuple[Path | Picture, Turn]]:
    """An image and what is asked about it, spread over the test split."""
    pairs = [
        (sample.image, talk[0])
        for sample in load_dataset(task, "test").samples
        for talk in sample.conversations
        if sample.image is not None
    ]
    for i in range(count):
        yield pairs[i * len(pairs) // count]


def answers(source: Source, asked: list[tuple[Path | Picture, Turn]], name: str, shift: int = 0) -> list[str]:
    """Greedy answers; with `shift` each about the image of a question so far behind."""
    model = assemble(source.config, source.weights, source.where)
    engine = PytorchEngine(model, source.config.decoder.max_position_embeddings)
    session = Session(engine, source.load_text(), source.config, "benchmark", GenerationDefaults())
    encode = lru_cache(maxsize=IMAGES)(session.encode_image)
    said = []
    for i, (_, turn) in enumerate(track(asked, name, console=progress_console)):
        image = encode(asked[(i + shift) % len(asked)][0])
        said.append(normalize(session.answer(turn.question, image, NEW_TOKENS)))
    return said


@dataclass(frozen=True)
class Kind:
    """A student: what it is called, its injection, whether it is solved on images, and the side of pooled squares."""

    name: str
    injection: Injection
    solved: bool = True
    pooling: int = 1


def students(layers: int, slots: bool) -> Iterator[Kind]:
    """Those of the table; with `slots` one with terms of its own in each slot."""
    placed = Injection(positions="sequence")
    yield Kind("own projections, k = 0", replace(placed, mixing=0), solved=False)
    yield Kind("solved, no positions (the paper's form)", Injection())
    yield Kind("solved", placed)
    if slots:
        yield Kind("solved, terms of slots", replace(placed, slots=True))
    yield from (Kind(f"solved, squares of {side}", placed, pooling=side) for side in SQUARES)
    for mixing in [k for k in (0, 1, 2, 4, 8, 16) if k < layers]:
        yield Kind(f"solved, k = {mixing}", replace(placed, mixing=mixing))
    yield Kind(f"k = {layers}, all layers", replace(placed, mixing=layers), solved=False)


@dataclass(frozen=True)
class Result:
    """A row of the table: of `asked` questions how many are answered exactly, and how many as the teacher does."""

    name: str
    asked: int
    right: int
    kept: int
    gflops: float
    explained: float | None = None

    def row(self) -> tuple[str, ...]:
        """Its cells."""
        low, high = interval(self.right, self.asked)
        explained = "" if self.explained is None else f"{self.explained:.4f}"
        share, kept = self.right / self.asked, self.kept / self.asked
        return self.name, f"{share:.1%}", f"{low:.1%} to {high:.1%}", f"{kept:.1%}", explained, f"{self.gflops:.3g}"


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--task", default="easy-vqa")
    parser.add_argument("--images", default="easy-vqa", help="to solve on: a data set's training split, or a folder")
    parser.add_argument("--image-count", type=int, default=750)
    parser.add_argument("--questions", type=int, default=800)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER", help="a checkpoint to ask too")
    parser.add_argument("--only", action="store_true", help="the teacher and those of --also alone")
    parser.add_argument("--no-slots", action="store_true", help="leave the terms of slots out")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw answers kept against GFLOPs")
    arguments = parser.parse_args()
    teacher = open_source(arguments.teacher)
    asked = list(questions(arguments.task, arguments.questions))
    calibration = Calibration(load_images(arguments.images, arguments.image_count), arguments.images)
    reference = answers(teacher, asked, "teacher")

    def result(name: str, source: Source, said: list[str], explained: float | None = None) -> Result:
        right = sum(normalize(turn.answer) == answer for (_, turn), answer in zip(asked, said, strict=True))
        kept = sum(a == b for a, b in zip(said, reference, strict=True))
        return Result(name, len(asked), right, kept, count_flops(source.config).paper_prefill / 1e9, explained)

    results = [result("teacher", teacher, reference)]
    for name, _, folder in (one.partition("=") for one in arguments.also):
        also = open_source(folder)
        results.append(result(name, also, answers(also, asked, name)))
    if not arguments.only:
        other = answers(teacher, asked, "another image", shift=len(asked) // 3)
        results.append(result("teacher, another image", teacher, other))
    kinds = students(teacher.config.decoder.num_hidden_layers, not arguments.no_slots)
    for kind in () if arguments.only else kinds:
        given = calibration if kind.solved else None
        made = make_student(teacher, kind.injection, given, list, pooling=kind.pooling)
        shares = [share for layer in made.explained for share in (layer.keys, layer.values)]
        explained = sum(shares) / len(shares) if shares else None
        results.append(result(kind.name, made.source, answers(made.source, asked, kind.name), explained))
    columns = ("model", "right", "95% interval", "kept", "explained, mean", "GFLOPs")
    print_table(f"{arguments.questions} questions of {arguments.task}", columns, [one.row() for one in results])
    if arguments.plot:
        plot([one for one in results if one.name != "teacher, another image"], arguments.plot)


def plot(results: list[Result], out: Path) -> None:
    """Answers that are the teacher's, with their 95% intervals, against GFLOPs of the decoder."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "himix"  # the same file every time
    from matplotlib import pyplot

    groups = {
        "teacher": [one for one in results if one.name == "teacher"],
        "k layers mix": sorted((one for one in results if MIXES.fullmatch(one.name)), key=lambda one: one.gflops),
        "linear maps": [one for one in results if one.name == "solved"],
        "linear maps, the paper's form": [one for one in results if "paper" in one.name],
        "linear maps, pooled": [one for one in results if POOLED.fullmatch(one.name)],
    }
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, members) in enumerate(groups.items()):
        shares = [one.kept / one.asked for one in members]
        ends = [interval(one.kept, one.asked) for one in members]
        away = [[max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)],
                [max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)]]  # fmt: skip
        line = "-" if "mix" in name or "pooled" in name else ""
        axes.errorbar([one.gflops for one in members], shares, away, fmt=f"{MARKS[number]}{line}", ms=5, lw=1.2,
                      capsize=3, label=name)  # fmt: skip
        for one, share in zip(members, shares, strict=True) if line else ():
            short = one.name.removeprefix("solved, ").partition(", all")[0]
            axes.annotate(short, (one.gflops, share), (4, -11), fontsize=7, textcoords="offset points")
    axes.set(xlabel="GFLOPs of the decoder for an image and 64 tokens", ylabel="answers that are the teacher's")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
