"""How a model is trained: one frozen dataclass, a table of recipes by preset."""

from dataclasses import dataclass
from typing import Literal

from himix_edge.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, beside the preset, the data and the seed."""

    steps: int  # optimiser steps
    images_per_step: int  # images encoded in one step
    conversations_per_image: int  # conversations about each of them, sharing its K/V
    learning_rate: float  # peak; linear warm-up, then cosine to zero
    warmup_steps: int
    weight_decay: float = 0.05  # on matrices, not on norms and biases
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0  # global norm
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of the matrix products; weights and optimiser are float32
    join: float = 0.0  # chance that a step makes one multi-turn conversation of each image's
    tower_loss: float = 0.0  # weight of the tower's own loss, see trainer.tower_loss; for towers trained from scratch
    mirror: bool = False  # mirror half of the images: only where no question is about left, right or text
    shift: int = 0  # move images by up to this many pixels, edges repeated
    validation_images: int = 100  # training images held out for the periodic evaluation
    evaluate_every: int = 200
    checkpoint_every: int = 100


RECIPES = {
    "nano": Recipe(
        steps=1500,
        images_per_step=64,
        conversations_per_image=4,
        learning_rate=1e-3,
        warmup_steps=50,
        join=0.15,
        tower_loss=0.5,
        mirror=True,
        shift=3,
    )
}


def recipe(preset: str) -> Recipe:
    """The recipe that belongs to a preset. Raises InputError if there is none."""
    if preset not in RECIPES:
        raise InputError(f"no recipe for preset {preset!r}; there are recipes for: {', '.join(sorted(RECIPES))}")
    return RECIPES[preset]
