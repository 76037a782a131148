"""Images as training sees them: changed a little, so that a model learns what stays."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himix_edge.training.recipe import Recipe


def augment(pixels: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (S, S, 3), mirrored, moved, unevenly lit, and brightened or darkened, as the recipe allows."""
    if recipe.mirror and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if recipe.shift:
        size, most = pixels.shape[0], recipe.shift
        padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="edge")
        top, left = rng.integers(2 * most + 1, size=2)
        pixels = padded[top : top + size, left : left + size]
    if recipe.shade:
        light = Image.fromarray((128 * (1 + recipe.shade * rng.uniform(-1, 1, (5, 5)))).clip(0, 255).astype(np.uint8))
        field = np.asarray(light.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR), np.uint16)[..., None]
        pixels = (pixels * field >> 7).clip(0, 255).astype(np.uint8)
    if recipe.jitter:
        contrast, brightness = 1 + recipe.jitter * rng.uniform(-1, 1, 2)
        levels = ((np.arange(256) - 128) * contrast + 128) * brightness
        pixels = levels.clip(0, 255).astype(np.uint8)[pixels]
    return pixels
