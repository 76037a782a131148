"""himix distill: a student learns what its teacher would say."""

from pathlib import Path
from typing import Unpack

import click

from himix_edge import extras
from himix_edge.cli.options import examples
from himix_edge.cli.training_options import RunOptions, carry_out, refuse_resume_and_force, run_options
from himix_edge.errors import InputError

MAX_PROMPTS_BYTES = 1 << 20


@click.command(
    short_help="Let a student learn what its teacher would say.",
    epilog=examples(
        "himix distill --teacher runs/teacher/final --student models/fast --data easy-vqa --out runs/distilled",
        "himix distill --teacher models/vlm --student models/fast --data photos --prompts asked.txt --out runs/mine",
    ),
)
@click.option("--teacher", required=True, help="The checkpoint whose answers are learned.")
@click.option("--student", required=True, help="The checkpoint that learns; himix convert --to himix makes one.")
@click.option("--data", metavar="NAME_OR_PATH", required=True,
              help="A data set, a LLaVA-format .json file, or a folder of pictures, about which the teacher is "
              "asked the prompts first.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Samples, or pictures, of the data. [default: all]")
@click.option("--prompts", type=click.Path(path_type=Path),
              help="A text file, a prompt a line, for a folder of pictures. [default: the recipe's]")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0.01, 100),
              help="Above 1, also what the teacher finds unlikely counts. [default: the recipe's, 1]")  # fmt: skip
@click.option("--recipe", "recipe_name", default="distill", show_default=True, help="distill, or a .yaml file.")
@click.option("--test-data", metavar="NAME_OR_FILE", help="What to ask the student at the end. [default: nothing]")
@run_options("runs/distill")
def distill(
    teacher: str,
    student: str,
    data: str,
    limit: int | None,
    prompts: Path | None,
    temperature: float | None,
    recipe_name: str,
    test_data: str | None,
    **options: Unpack[RunOptions],
) -> None:
    """Train a student on its teacher's distributions over the answers, by the trainer of `himix train`: injection
    first, then adapters (LoRA) of the decoder. OUT/final is the checkpoint to use; divergence in OUT/metrics.csv is
    what is still between them, in nats a token.

    The data's own answers are only what both models read; --set answer_loss=1 learns them too, and --set
    attention_loss=1 what the teacher's layers attend to.
    """
    with extras.needed("torch", extras.TRAIN):
        import torch  # noqa: F401
    refuse_resume_and_force(options)
    from dataclasses import replace

    from himix_edge.training.recipe import DataPart, learning_from, read_recipe
    from himix_edge.training.start import Variant

    recipe = learning_from(read_recipe(recipe_name, options["settings"]), DataPart(data, limit))
    recipe = replace(
        recipe, model=student, teacher=teacher, pretrained=True, temperature=temperature or recipe.temperature,
        prompts=_prompts(prompts) if prompts else recipe.prompts,
        tests=(DataPart(test_data, split="test"),) if test_data else (),
    )  # fmt: skip
    carry_out(recipe, Variant(), options["out"] or Path("runs") / Path(recipe_name).stem, options)


def _prompts(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty. Raises InputError if there are none."""
    from himix_edge.reading import read_text

    prompts = tuple(line.strip() for line in read_text(path, MAX_PROMPTS_BYTES).splitlines() if line.strip())
    if not prompts:
        raise InputError(f"{path}: holds no prompts; write one in each line")
    return prompts
