"""himix train: a model by its recipe."""

from pathlib import Path
from typing import Literal

import click

from himix_edge import extras
from himix_edge.cli.console import print_json, size
from himix_edge.cli.options import examples, numbers
from himix_edge.errors import InputError


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
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json files' images are.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/RECIPE or runs/RECIPE-vanilla]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of fresh weights, and of every choice of a sample.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue a killed run; the result is the same.")
@click.option("--force", is_flag=True, help="Replace an earlier run, which stays until the new one is complete.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Change a setting of the recipe or its stages, e.g. steps=9; STAGE.NAME=VALUE: of one.")  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that make batches."
)
@click.option("--pixels", type=click.Path(path_type=Path), help="Folder to keep resized images in, for later epochs.")
@click.option("--fsdp", is_flag=True, help="Under torchrun: share weights and optimizer among the processes (FSDP2).")
@click.option("--compile", "compiled", is_flag=True, help="Compile the decoder's layers (worth it on a GPU).")
@click.option("--graphs", is_flag=True, help="Repeat recorded steps (CUDA graphs): far faster for small models.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    recipe_name: str,
    vanilla: bool,
    injection_layers: str | None,
    sharing: Literal["none", "uniform", "levels"],
    feature_layers: str | None,
    pooling: int,
    data: str | None,
    test_data: str | None,
    image_folder: Path | None,
    out: Path | None,
    seed: int,
    resume: bool,
    force: bool,
    settings: tuple[str, ...],
    workers: int,
    pixels: Path | None,
    fsdp: bool,
    compiled: bool,
    graphs: bool,
    as_json: bool,
) -> None:
    """Train a model, on a GPU if there is one. OUT/final is the checkpoint to use, OUT/metrics.csv and metrics.png the
    course of the run.

    On several GPUs or machines: `torchrun --nproc-per-node N -m himix_edge train ...` or `accelerate launch`.
    """
    with extras.needed("torch", extras.TRAIN):
        import torch  # noqa: F401
    if resume and force:
        raise InputError("--resume continues a run and --force replaces one; give one of them")
    from dataclasses import replace

    from himix_edge.config import Injection
    from himix_edge.training.recipe import DataPart, read_recipe
    from himix_edge.training.run import Run
    from himix_edge.training.start import Variant
    from himix_edge.training.trainer import train as run_training

    recipe = read_recipe(recipe_name, settings)
    if data:
        stages = tuple(replace(stage, data=()) for stage in recipe.stages)
        own = () if data.endswith(".json") else (DataPart(data, split="test"),)
        recipe = replace(recipe, data=(DataPart(data),), stages=stages, tests=own)
    if test_data:
        recipe = replace(recipe, tests=(DataPart(test_data, split="test"),))
    variant = Variant(
        vanilla, Injection(numbers("--injection-layers", injection_layers), sharing),
        numbers("--feature-layers", feature_layers), pooling,
    )  # fmt: skip
    stem = Path(recipe_name).stem
    folder = out or Path("runs") / (f"{stem}-vanilla" if vanilla else stem)
    run = Run(folder, recipe, variant, seed, image_folder, pixels, workers, fsdp, compiled, graphs)
    result = run_training(run, resume, force=force)
    if not result:  # another process than the first
        return
    if as_json:
        print_json(result)
        return
    weights = sum(path.stat().st_size for path in (folder / "final").glob("*.safetensors"))
    click.echo(f"{folder / 'final'}: {result['trained_parameters']:,} trained parameters, {size(weights)}")
    tests = result.get("tests")
    for name, test in tests.items() if isinstance(tests, dict) else ():
        click.echo(f"{name}: {test['accuracy']:.2%} of {test['asked']} questions answered exactly")
