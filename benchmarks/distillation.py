"""HiMix of a vanilla model, without training and with: answers that are right, and answers that are the teacher's.

    himix train --recipe nano --vanilla --set all.steps=400 --out runs/teacher
    python -m benchmarks.distillation runs/teacher/final [--task easy-vqa] [--images easy-vqa] [--questions N]

and of students that learned from it, in place of those that are only solved:

    python -m benchmarks.distillation runs/teacher/final --only --also "solved + 100 steps=runs/distilled/final"

"Right" are questions of the task's test split that are answered exactly, with a 95% interval; "kept" are those answered
as the teacher does; with the image of another question, its answers tell what the questions alone give away. GFLOPs are
of the decoder: the injection of an image, and the prefill of a prompt of 64 tokens.
"""

import argparse
from collections.abc import Iterator
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


def students(layers: int, slots: bool) -> Iterator[tuple[str, Injection, bool]]:
    """Name, injection, and whether it is solved on images."""
    yield "own projections, k = 0", Injection(positions="sequence", mixing=0), False
    yield "solved, no positions (the paper's form)", Injection(), True
    yield "solved", Injection(positions="sequence"), True
    if slots:
        yield "solved, terms of slots", Injection(positions="sequence", slots=True), True
    for mixing in [k for k in (0, 1, 2, 4, 8, 16) if k < layers]:
        yield f"solved, k = {mixing}", Injection(positions="sequence", mixing=mixing), True
    yield f"k = {layers}, all layers", Injection(positions="sequence", mixing=layers), False


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--task", default="easy-vqa")
    parser.add_argument("--images", default="easy-vqa", help="to solve on: a data set's training split, or a folder")
    parser.add_argument("--image-count", type=int, default=750)
    parser.add_argument("--questions", type=int, default=800)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER", help="a checkpoint to ask too")
    parser.add_argument("--only", action="store_true", help="the teacher and those of --also alone")
    parser.add_argument("--no-slots", action="store_true", help="leave the terms of slots out")
    arguments = parser.parse_args()
    teacher = open_source(arguments.teacher)
    asked = list(questions(arguments.task, arguments.questions))
    calibration = Calibration(load_images(arguments.images, arguments.image_count), arguments.images)
    reference = answers(teacher, asked, "teacher")
    rows = [_row("teacher", teacher, asked, reference, reference, "")]
    for name, _, folder in (one.partition("=") for one in arguments.also):
        also = open_source(folder)
        rows.append(_row(name, also, asked, answers(also, asked, name), reference, ""))
    if not arguments.only:
        other = answers(teacher, asked, "another image", shift=len(asked) // 3)
        rows.append(_row("teacher, another image", teacher, asked, other, reference, ""))
    kinds = students(teacher.config.decoder.num_hidden_layers, not arguments.no_slots)
    for name, injection, solved in () if arguments.only else kinds:
        made = make_student(teacher, injection, calibration if solved else None, list)
        shares = [share for layer in made.explained for share in (layer.keys, layer.values)] or [float("nan")]
        explained = f"{sum(shares) / len(shares):.4f}" if solved else ""
        rows.append(_row(name, made.source, asked, answers(made.source, asked, name), reference, explained))
    columns = ("model", "right", "95% interval", "kept", "explained, mean", "GFLOPs")
    print_table(f"{arguments.questions} questions of {arguments.task}", columns, rows)


def _row(
    name: str, source: Source, asked: list[tuple[Path | Picture, Turn]], said: list[str], reference: list[str],
    explained: str,
) -> tuple[str, ...]:  # fmt: skip
    right = sum(normalize(turn.answer) == answer for (_, turn), answer in zip(asked, said, strict=True))
    low, high = interval(right, len(asked))
    kept = sum(a == b for a, b in zip(said, reference, strict=True)) / len(asked)
    cost = count_flops(source.config).paper_prefill / 1e9
    return name, f"{right / len(asked):.1%}", f"{low:.1%} to {high:.1%}", f"{kept:.1%}", explained, f"{cost:.3g}"


if __name__ == "__main__":
    main()
