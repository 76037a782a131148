"""himix train: a model by its recipe."""

from pathlib import Path
from typing import Literal, Unpack

import click

from himix_edge import extras
from himix_edge.cli.options import examples, numbers
from himix_edge.cli.training_options import RunOptions, carry_out, refuse_resume_and_force, run_options


@click.command(
    short_help="Train a model by a recipe, or on your own conversations.",
    epilog=examples(
        "himix train --recipe nano --out runs/nano",
        "himix train --recipe further --data talks.json --image-folder images --out runs/mine",
    ),
)
@click.option("--recipe", "recipe_name", default="nano", show_default=True,
              help="nano, nano-regular, nano-enhanced, regular, enhanced, further, or a .yaml file.")  # fmt: skip
@click.option("--vanilla", is_flag=True, help="Train the LLaVA-style baseline of the same size instead of HiMix.")
@click.option("--injection-layers", metavar="I,J,...", help="Decoder layers that see the image. [default: recipe's]")
@click.option("--sharing", type=click.Choice(["none", "uniform", "levels"]), default="none", show_default=True,
              help="Injection weights: per layer, one for all, or one with a connector per feature level.")  # fmt: skip
@click.option("--feature-layers", metavar="I,J,...", help="Tower states to inject. [default: the tower's]")
@click.option("--pooling", type=click.IntRange(min=1), default=1, show_default=True, help="Pool the image's tokens.")
@click.option("--data", metavar="NAME_OR_FILE",
              help="Instead of the recipe's: easy-vqa, emoji-scenes, or a LLaVA-format .json file.")  # fmt: skip
@click.option("--test-data", metavar="NAME_OR_FILE", help="What to ask at the end, instead of the recipe's tests.")
@run_options("runs/RECIPE or runs/RECIPE-vanilla")
def train(
    recipe_name: str,
    vanilla: bool,
    injection_layers: str | None,
    sharing: Literal["none", "uniform", "levels"],
    feature_layers: str | None,
    pooling: int,
    data: str | None,
    test_data: str | None,
    **options: Unpack[RunOptions],
) -> None:
    """Train a model, on a GPU if there is one. OUT/final is the checkpoint to use, OUT/metrics.csv and metrics.png the
    course of the run.

    On several GPUs or machines: `torchrun --nproc-per-node N -m himix_edge train ...` or `accelerate launch`.
    """
    with extras.needed("torch", extras.TRAIN):
        import torch  # noqa: F401
    refuse_resume_and_force(options)
    from dataclasses import replace

    from himix_edge.config import Injection
    from himix_edge.training.recipe import DataPart, learning_from, read_recipe
    from himix_edge.training.start import Variant

    recipe = read_recipe(recipe_name, options["settings"])
    if data:
        recipe = learning_from(recipe, DataPart(data))
    if test_data:
        recipe = replace(recipe, tests=(DataPart(test_data, split="test"),))
    variant = Variant(
        vanilla, Injection(numbers("--injection-layers", injection_layers), sharing),
        numbers("--feature-layers", feature_layers), pooling,
    )  # fmt: skip
    stem = Path(recipe_name).stem
    folder = options["out"] or Path("runs") / (f"{stem}-vanilla" if vanilla else stem)
    carry_out(recipe, variant, folder, options)
