"""The HiMix model that is made of a vanilla one: tower and decoder are its own, the injection is solved or copied."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from himix_edge.checkpoints.assemble import assemble, check_names, expected_shapes, meta_model
from himix_edge.checkpoints.fresh import fresh_weights
from himix_edge.checkpoints.lazy import LazyTensor, Weights, as_weights
from himix_edge.checkpoints.source import Source
from himix_edge.config import Connector, Injection, ModelConfig, VisionConfig, ViTConfig
from himix_edge.distillation.solving import Explained, Sums, solve
from himix_edge.errors import InputError
from himix_edge.model import VanillaModel
from himix_edge.parts import IN_LAYERS, part_of
from himix_edge.preprocess import Picture, load_image

IMAGES_AT_ONCE = 16
Watch = Callable[[Iterable[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True)
class Calibration:
    """Images to solve an injection on, and where they come from, for the record."""

    images: Sequence[Path | Picture]
    data: str


@dataclass(frozen=True)
class Student:
    """The converted model, and how much of the teacher's keys and values it has, as far as that was measured."""

    source: Source
    explained: tuple[Explained, ...]


def student_config(teacher: ModelConfig, injection: Injection, pooling: int = 1) -> ModelConfig:
    """The configuration of a HiMix model on the teacher's tower and decoder.

    Squares of `pooling` tokens a side are one: of the tower's features, or behind the connector if the injection mixes.

    Raises:
        InputError: a teacher that is not vanilla, takes no image, or whose pictures stand in its text as several tiles;
            or an injection that does not fit it.
    """
    if teacher.architecture != "vanilla" or teacher.vision is None:
        raise InputError("--to himix: only a vanilla model has image tokens in its decoder whose keys it could take")
    teacher = teacher.picture_in_front("--to himix")
    connector = Connector() if injection.mixing is None else teacher.connector
    if injection.mixing is None and teacher.tile_tokens != teacher.features:
        raise InputError(
            f"--to himix: the connector makes {teacher.tile_tokens} tokens of {teacher.features} features; "
            "--mixing 0 keeps it"
        )
    vision = teacher.vision
    if pooling > 1 and injection.mixing is None and not isinstance(vision, ViTConfig):
        raise InputError("--pooling: this tower's features are no plain grid; --mixing 0 pools behind the connector")
    if pooling > 1 and connector.positions:
        raise InputError("--pooling: this connector adds positions behind its own pooling")
    try:
        if injection.mixing is not None:
            connector = replace(connector, pool=connector.pool * pooling)
        elif isinstance(vision, ViTConfig):
            vision = replace(vision, pooling=vision.pooling * pooling)
        return replace(teacher, architecture="himix", injection=injection, connector=connector, vision=vision)
    except ValueError as error:
        raise InputError(str(error)) from None


def make_student(
    teacher: Source,
    injection: Injection,
    calibration: Calibration | None,
    watch: Watch,
    fresh: int | None = None,
    pooling: int = 1,
) -> Student:
    """A HiMix model of a vanilla one, without training.

    Args:
        teacher: a vanilla model.
        injection: the student's.
        calibration: images on which the projections are solved; None: each layer's own norm and projections are
            copied, which takes an injection that mixes.
        watch: hands on batches of pixels, for a progress bar.
        fresh: a seed: the projections are neither solved nor copied, they are to be trained.
        pooling: squares of so many tokens a side become one.

    Raises:
        InputError: see `student_config` and `solve`; an injection that cannot be copied; an image that cannot be read.
    """
    config = student_config(teacher.config, injection, pooling)
    explained: tuple[Explained, ...] = ()
    expected = expected_shapes(meta_model(config))
    untrained = {name: shape for name, shape in expected.items() if IN_LAYERS in name} if fresh is not None else {}
    projections: Weights
    if fresh is not None:
        projections = fresh_weights(untrained, fresh)
    elif calibration is not None and config.projecting_layers:
        solution = solve(_sums(teacher, config, calibration, watch))
        explained = solution.explained
        projections = as_weights(solution.tensors)
    else:
        projections = _copied(teacher, config)
    kept = {name: tensor for name, tensor in teacher.weights.items() if part_of(name) != "injection"}
    kept |= {name: tensor for name, tensor in teacher.weights.items() if name in expected}  # a connector that mixes
    kept |= {**_mixer(teacher.weights, injection.mixing or 0), **projections}
    check_names(kept, expected, teacher.where)
    weights = {name: kept[name] for name in expected}
    record = {
        "source": teacher.name, "to": "himix", "injection": injection.to_dict(), "pooling": pooling,
        "fresh_tensors": len(untrained),
        "solved_on": None if calibration is None else {"data": calibration.data, "images": len(calibration.images)},
        "explained": [asdict(layer) for layer in explained],
    }  # fmt: skip
    provenance = {**teacher.provenance, "converted": record}
    made = replace(teacher, config=config, weights=weights, provenance=provenance, base=None, trained={})
    wordless = cache(lambda: replace(teacher.load_template(), image=None))  # the student's image is not in its text
    return Student(replace(made, load_template=wordless), explained)


def _sums(teacher: Source, config: ModelConfig, calibration: Calibration, watch: Watch) -> Sums:
    model = assemble(teacher.config, teacher.weights, teacher.where)
    assert isinstance(model, VanillaModel)
    assert config.vision is not None
    sums = Sums(model, config, teacher.words_before_a_picture())
    for pixels in watch(_batches(calibration.images, config.vision)):
        with torch.inference_mode():
            sums.add(model.encode_image(pixels))
    return sums


def _batches(images: Sequence[Path | Picture], vision: VisionConfig) -> Iterator[Tensor]:
    """Pixels uint8 (B, S, S, 3)."""
    for first in range(0, len(images), IMAGES_AT_ONCE):
        some = images[first : first + IMAGES_AT_ONCE]
        pixels = [load_image(image, vision.image_size, vision.resample) for image in some]
        yield torch.from_numpy(np.concatenate(pixels))


def _mixer(weights: Weights, count: int) -> dict[str, LazyTensor]:
    """The decoder's first layers once more, for the image."""
    names = [name for name in weights if name.startswith("model.layers.") and int(name.split(".")[2]) < count]
    return {f"mixer.{name.removeprefix('model.')}": weights[name] for name in names}


def _copied(teacher: Source, config: ModelConfig) -> dict[str, LazyTensor]:
    """Each layer's own norm and projections, for the image: what they make of what the layer itself never mixed."""
    if config.projecting_layers and config.injection.mixing is None:
        raise InputError("--to himix: --images is missing, on which the projections are solved; or give --mixing")
    if config.projecting_layers and (config.injection.slots or config.decoder.qk_norm):
        what = "terms of slots" if config.injection.slots else "keys that the model norms per head"
        raise InputError(f"--to himix: no layer's own projections give {what}; --images solves them")
    found = {}
    for layer in config.projecting_layers:
        prefix = f"model.layers.{layer}."
        pairs = [("input_layernorm", "input_layernorm_img")]
        pairs += [(f"self_attn.{kind}_proj", f"self_attn.{kind}_proj_img") for kind in "kv"]
        for own, image in pairs:
            for name in (f"{prefix}{own}.weight", f"{prefix}{own}.bias"):
                if name in teacher.weights:
                    found[name.replace(own, image)] = teacher.weights[name]
    return found
