"""himix convert --to himix: the parts that deal with a vision-language model as the teacher."""

from pathlib import Path
from typing import TYPE_CHECKING

from himix_edge.cli.console import track
from himix_edge.cli.options import numbers
from himix_edge.errors import InputError

if TYPE_CHECKING:
    from himix_edge.checkpoints import Source
    from himix_edge.checkpoints.convert import Conversion
    from himix_edge.config import Injection
    from himix_edge.distillation.student import Student

ASKED = 64  # samples on which layers are chosen


def refuse_others(request: "Conversion") -> None:
    """Raises InputError for what a vision-language model has already."""
    settings = {
        "--tower": request.tower is not None, "--vanilla": request.vanilla, "--pooling": request.pooling != 1,
        "--sharing": request.injection.sharing != "none", "--feature-layers": request.feature_layers != (-2,),
        "--image-size": request.image_size is not None, "--chat-template": request.chat_template is not None,
    }  # fmt: skip
    for option, asked in settings.items():
        if asked:
            raise InputError(f"{option}: {request.source} has a tower and a template already, which --to himix keeps")


def needed_layers(teacher: "Source", asked: str, images: str | None, image_folder: Path | None) -> tuple[int, ...]:
    """Of "auto" or "auto:K": what `himix analyze --layers` proposes."""
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.data import load_dataset
    from himix_edge.distillation.layers import image_use, require_image_in_cache
    from himix_edge.training.pixels import ImageLoader

    vision = require_image_in_cache(teacher.config)
    if images is None or Path(images).is_dir():
        raise InputError(f"--injection-layers {asked}: --images has to be a data set or a .json file with questions")
    counts = numbers("--injection-layers", asked.partition(":")[2] or None) or (None,)
    if len(counts) > 1:
        raise InputError(f"--injection-layers {asked}: give auto or auto:K")
    samples = [
        sample for sample in load_dataset(images, image_folder=image_folder).first(ASKED).samples if sample.image
    ]
    model = assemble(teacher.config, teacher.weights, teacher.where)
    load, text = ImageLoader(vision), teacher.load_text()
    return image_use(model, text, samples, load, lambda r: track(r, "leaving layers out")).choice(counts[0])


def of_teacher(
    teacher: "Source", injection: "Injection", images: str | None, limit: int, image_folder: Path | None
) -> "Student":
    """The model made of `teacher`, with a progress bar."""
    from himix_edge.data import load_images
    from himix_edge.distillation.student import IMAGES_AT_ONCE, Calibration, make_student, student_config

    config = student_config(teacher.config, injection)  # before the images are read
    if images is None or not config.projecting_layers:
        return make_student(teacher, injection, None, list)
    calibration = Calibration(load_images(images, limit, image_folder), images)
    batches = -(-len(calibration.images) // IMAGES_AT_ONCE)
    return make_student(teacher, injection, calibration, lambda b: track(b, "looking at images", batches))
