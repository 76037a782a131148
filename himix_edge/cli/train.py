"""himix train: a preset from scratch, by its recipe."""

import dataclasses
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError

from himix_edge.cli.console import print_json, size
from himix_edge.config import first_problem
from himix_edge.errors import BackendMissing, InputError
from himix_edge.presets import preset as find_preset


@click.command()
@click.option("--preset", default="nano", show_default=True, help="Which model, with its recipe.")
@click.option("--vanilla", is_flag=True, help="Train the LLaVA-style baseline of the same size instead of HiMix.")
@click.option(
    "--data", default="easy-vqa", show_default=True, help="easy-vqa, emoji-scenes, or a LLaVA-format .json file."
)
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json file's images are.")
@click.option("--test-data", help="LLaVA-format .json to evaluate at the end. [default: the dataset's own test split]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/PRESET or runs/PRESET-vanilla]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Continue a killed run; the result is the same.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a recipe setting, e.g. steps=100.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    preset: str,
    vanilla: bool,
    data: str,
    image_folder: Path | None,
    test_data: str | None,
    out: Path | None,
    seed: int,
    resume: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a model on the CPU. OUT/final is the checkpoint to use, OUT/metrics.csv the course of the run."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise BackendMissing("torch", "train") from None
    from himix_edge.data import load_dataset
    from himix_edge.data.easy_vqa import with_phrasings
    from himix_edge.training.recipe import Recipe, recipe
    from himix_edge.training.trainer import Run
    from himix_edge.training.trainer import train as run_training

    chosen = _with_settings(recipe(preset), settings, Recipe)
    config = dataclasses.replace(find_preset(preset), architecture="vanilla" if vanilla else "himix")
    train_data = load_dataset(data, "train", image_folder)
    if data == "easy-vqa":
        train_data = with_phrasings(train_data, seed)
    test = load_dataset(test_data or data, "test", image_folder) if test_data or not data.endswith(".json") else None
    folder = out or Path("runs") / (f"{preset}-vanilla" if vanilla else preset)
    result = run_training(Run(folder, config, chosen, train_data, test, seed), resume)
    if as_json:
        print_json(result)
        return
    weights = folder / "final" / "model.safetensors"
    click.echo(f"{folder / 'final'}: {result['parameters']:,} parameters, {size(weights.stat().st_size)}")
    if "test" in result:
        test_result = result["test"]
        click.echo(f"test split: {test_result['accuracy']:.2%} of {test_result['asked']} questions answered exactly")


def _with_settings(recipe, settings: tuple[str, ...], kind):  # type: ignore[no-untyped-def]
    """The recipe with NAME=VALUE changes, validated against its field types."""
    values = dataclasses.asdict(recipe)
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or name not in values:
            raise InputError(f"--set {setting}: give NAME=VALUE with a name of: {', '.join(values)}")
        values[name] = value
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise InputError(f"--set {first_problem(error)}") from None
