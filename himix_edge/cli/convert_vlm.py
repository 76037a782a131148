"""himix convert --to himix: the parts that deal with a vision-language model as the teacher."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from himix_edge.cli.console import print_table, progress_console, track
from himix_edge.cli.options import numbers
from himix_edge.errors import InputError

if TYPE_CHECKING:
    from himix_edge.checkpoints import Source
    from himix_edge.checkpoints.convert import Conversion
    from himix_edge.config import Injection
    from himix_edge.data import Sample
    from himix_edge.distillation.losses import AnswerLosses
    from himix_edge.distillation.student import Student

ASKED = 64  # samples on which layers are chosen


def refuse_others(request: "Conversion") -> None:
    """Raises InputError for what a vision-language model has already."""
    settings = {
        "--tower": request.tower is not None, "--vanilla": request.vanilla,
        "--sharing": request.injection.sharing != "none", "--feature-layers": request.feature_layers != (-2,),
        "--image-size": request.image_size is not None, "--chat-template": request.chat_template is not None,
    }  # fmt: skip
    for option, asked in settings.items():
        if asked:
            raise InputError(f"{option}: {request.source} has a tower and a template already, which --to himix keeps")


def needed_layers(teacher: "Source", asked: str, images: str | None, image_folder: Path | None) -> tuple[int, ...]:
    """Of "auto" or "auto:K": what `himix analyze --layers` proposes."""
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.distillation.layers import image_use, require_image_in_cache
    from himix_edge.training.pixels import ImageLoader

    vision = require_image_in_cache(teacher.config, f"--injection-layers {asked}")
    samples = _questions(f"--injection-layers {asked}", images, image_folder)
    counts = numbers("--injection-layers", asked.partition(":")[2] or None) or (None,)
    if len(counts) > 1:
        raise InputError(f"--injection-layers {asked}: give auto or auto:K")
    model = assemble(teacher.config, teacher.weights, teacher.where)
    load, text = ImageLoader(vision), teacher.load_text()
    before = teacher.words_before_a_picture()
    use = image_use(model, text, samples, load, lambda r: track(r, "leaving layers out"), before)
    return use.choice(counts[0])


def tolerated_pooling(teacher: "Source", injection: "Injection", images: str | None, image_folder: Path | None) -> int:
    """Of --pooling auto: the largest squares of tokens without which answers lose little; says what each loses."""
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.distillation.layers import require_image_in_cache
    from himix_edge.distillation.pooling import pooling_use
    from himix_edge.model import VanillaModel
    from himix_edge.training.pixels import ImageLoader

    vision = require_image_in_cache(teacher.config, "--pooling auto")
    samples = _questions("--pooling auto", images, image_folder)
    model = assemble(teacher.config, teacher.weights, teacher.where)
    if not isinstance(model, VanillaModel):
        raise InputError("--pooling auto: only a vanilla model's image tokens can be looked at")
    use = pooling_use(
        model, teacher.load_text(), samples, ImageLoader(vision), injection.positions, injection.layers,
        lambda r: track(r, "pooling"), teacher.words_before_a_picture(),
    )  # fmt: skip
    tried = ", ".join(f"{model.config.tile_tokens // side**2}: {loss:.4f}" for side, loss in use.losses.items())
    progress_console.print(f"loss of the answers by image tokens: {tried}, none: {use.blind:.4f}")
    return use.choice()


def _questions(option: str, images: str | None, image_folder: Path | None) -> "list[Sample]":
    """One about each of the data's first images. Raises InputError naming the option for images without questions."""
    from himix_edge.data import load_dataset
    from himix_edge.distillation.losses import one_question_each

    if images is None or Path(images).is_dir():
        raise InputError(f"{option}: --images has to be a data set or a .json file with questions")
    return one_question_each(load_dataset(images, image_folder=image_folder).first(ASKED).samples)


def of_teacher(
    teacher: "Source",
    injection: "Injection",
    images: str | None,
    limit: int,
    image_folder: Path | None,
    fresh: int | None,
    pooling: int,
) -> "Student":
    """The model made of `teacher`, with a progress bar; `fresh`, a seed: with untrained projections."""
    from himix_edge.data import load_images
    from himix_edge.distillation.student import IMAGES_AT_ONCE, Calibration, make_student, student_config

    config = student_config(teacher.config, injection, pooling)  # before the images are read
    if images is None or fresh is not None or not config.projecting_layers:
        return make_student(teacher, injection, None, list, fresh, pooling)
    calibration = Calibration(load_images(images, limit, image_folder), images)
    batches = -(-len(calibration.images) // IMAGES_AT_ONCE)
    watch = partial(track, what="looking at images", total=batches)
    return make_student(teacher, injection, calibration, watch, pooling=pooling)


def losses_of(
    teacher: "Source", student: "Student", images: str | None, count: int, image_folder: Path | None
) -> "AnswerLosses":
    """Of the answers to questions about `count` images, of the data's test split where it has one."""
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.data import load_dataset
    from himix_edge.distillation.losses import answer_losses, one_question_each
    from himix_edge.model import HiMixModel
    from himix_edge.training.pixels import ImageLoader
    from himix_edge.training.teacher import teacher_of

    if images is None or Path(images).is_dir():
        raise InputError("--check: --images has to be a data set or a .json file with questions and answers")
    samples = one_question_each(load_dataset(images, "test", image_folder).first(count).samples)
    if not samples:
        raise InputError(f"--check: {images}: no sample has an image")
    made = student.source
    model = assemble(made.config, made.weights, made.where)
    assert isinstance(model, HiMixModel)
    assert made.config.vision is not None
    load, text = ImageLoader(made.config.vision), made.load_text()
    return answer_losses(teacher_of(teacher), model, text, samples, load, lambda r: track(r, "asking"))


def print_student(student: "Student", losses: "AnswerLosses | None") -> None:
    """What is explained of each layer, and what the answers lose by it."""
    if student.explained:
        columns, rows = ["layer", "keys", "values"], [[one.layer, one.keys, one.values] for one in student.explained]
        if losses is not None:
            columns.append("loss with this layer solved")
            rows = [[*row, losses.layers[int(row[0])]] for row in rows]
        print_table("Explained variance on unseen images", columns, rows)
    if losses is not None:
        click.echo(
            f"loss of the answers, nats a token: teacher {losses.teacher:.4f}, student {losses.student:.4f}; with the "
            f"teacher's own keys and values in all of its layers {losses.exact:.4f}; {losses.kept:.2%} of the "
            "likeliest tokens are the teacher's"
        )
