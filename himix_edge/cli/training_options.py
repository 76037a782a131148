"""What `himix train` and `himix distill` have in common: how a run is carried out, whatever it learns from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from himix_edge.cli.console import print_json
from himix_edge.errors import InputError
from himix_edge.units import size

if TYPE_CHECKING:
    from himix_edge.training.recipe import Recipe
    from himix_edge.training.start import Variant

Command = TypeVar("Command", bound=Callable[..., Any])


class RunOptions(TypedDict):
    """The values of the options that `run_options` adds."""

    image_folder: Path | None
    out: Path | None
    seed: int
    resume: bool
    force: bool
    settings: tuple[str, ...]
    workers: int
    pixels: Path | None
    fsdp: bool
    compiled: bool
    graphs: bool
    as_json: bool


def run_options(out: str) -> Callable[[Command], Command]:
    """A decorator that adds these options to a command; `out` is the run folder by default, as its help says it."""
    options = (
        click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json files' images are."),
        click.option("--out", type=click.Path(path_type=Path), help=f"Run folder. [default: {out}]"),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                     help="Of fresh weights, and of every choice of a sample."),
        click.option("--resume", is_flag=True, help="Continue a killed run; the result is the same."),
        click.option("--force", is_flag=True,
                     help="Replace an earlier run, which stays until the new one is complete."),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
                     help="Change a setting of the recipe or its stages, e.g. steps=9; STAGE.NAME=VALUE: of one."),
        click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True,
                     help="Processes that make batches."),
        click.option("--pixels", type=click.Path(path_type=Path),
                     help="Folder to keep resized images in, for later epochs."),
        click.option("--fsdp", is_flag=True,
                     help="Under torchrun: share weights and optimizer among the processes (FSDP2)."),
        click.option("--compile", "compiled", is_flag=True, help="Compile the decoder's layers (worth it on a GPU)."),
        click.option("--graphs", is_flag=True,
                     help="Repeat recorded steps (CUDA graphs): far faster for small models."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    )  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def refuse_resume_and_force(options: RunOptions) -> None:
    """Raises InputError where both are asked for."""
    if options["resume"] and options["force"]:
        raise InputError("--resume continues a run and --force replaces one; give one of them")


def carry_out(recipe: "Recipe", variant: "Variant", folder: Path, options: RunOptions) -> None:
    """Train, and say what came of it."""
    from himix_edge.training.run import Run
    from himix_edge.training.trainer import train

    run = Run(
        folder, recipe, variant, options["seed"], options["image_folder"], options["pixels"], options["workers"],
        options["fsdp"], options["compiled"], options["graphs"],
    )  # fmt: skip
    result = train(run, options["resume"], force=options["force"])
    if not result:  # another process than the first
        return
    if options["as_json"]:
        print_json(result)
        return
    weights = sum(path.stat().st_size for path in (folder / "final").glob("*.safetensors"))
    click.echo(f"{folder / 'final'}: {result['trained_parameters']:,} trained parameters, {size(weights)}")
    tests = result.get("tests")
    for name, test in tests.items() if isinstance(tests, dict) else ():
        click.echo(f"{name}: {test['accuracy']:.2%} of {test['asked']} questions answered exactly")
