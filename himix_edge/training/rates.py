"""Which parameters learn in a stage, and how fast."""

import math

from himix_edge.parts import part_of
from himix_edge.training.recipe import Recipe, Stage


def learning_rate(step: int, stage: Stage) -> float:
    """Of a stage's step, counted from 0: linear warm-up to the peak, then a cosine to zero behind the last one."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def learns(name: str, stage: Stage, recipe: Recipe) -> bool:
    """Whether a parameter of the objective learns in a stage; the tower's own head does with its loss."""
    if name.startswith("head."):
        return stage.tower_loss > 0
    part = part_of(name.removeprefix("model."))
    adapted = part != "decoder" or not recipe.lora_rank or ".lora_" in name
    return part in stage.learn and adapted


def rate_factor(name: str, stage: Stage) -> float:
    """A parameter's learning rate, as a factor of the stage's."""
    if name.startswith("head."):
        return 1.0
    if ".k_proj_img." in name:
        return stage.key_rate
    return {"tower": stage.tower_rate, "decoder": stage.decoder_rate}.get(part_of(name.removeprefix("model.")), 1.0)
