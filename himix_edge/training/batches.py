"""Batches as a pure function of (seed, step): what a run sees after a restart is what it would have seen anyway."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himix_edge.config import VisionConfig
from himix_edge.data import Sample, Turn
from himix_edge.preprocess import Picture, load_image
from himix_edge.text import TextProcessor
from himix_edge.training.recipe import Recipe

IMAGE_CACHE_BYTES = 512 << 20
IGNORED = -100  # label of a token that the assistant does not have to produce


@dataclass(frozen=True)
class Batch:
    """pixels uint8 (I, S, S, 3); input_ids, labels int64 (R, T), right-padded; image_of_row int64 (R,), -1: no image.

    `labels[r, t]` is the token that should follow `input_ids[r, t]`, or IGNORED.
    """

    pixels: Tensor
    input_ids: Tensor
    labels: Tensor
    image_of_row: Tensor


class BatchMaker:
    """Draws, augments and tokenises the batches of one training run."""

    def __init__(
        self, samples: tuple[Sample, ...], text: TextProcessor, recipe: Recipe, vision: VisionConfig, seed: int
    ):
        self.samples, self.text, self.recipe, self.seed = samples, text, recipe, seed
        self.load = cached_images(vision)
        self.encode = lru_cache(maxsize=65536)(text.encode_conversation)

    def batch(self, step: int) -> Batch:
        """The batch of one step, counted from 0."""
        rng = np.random.default_rng([self.seed, step])
        images: list[NDArray[np.uint8]] = []
        rows: list[tuple[list[int], list[bool]]] = []
        image_of_row: list[int] = []
        join = rng.random() < self.recipe.join  # for the whole step, so that its rows have similar lengths
        for sample in self._draw(step):
            image = -1
            if sample.image is not None:
                image = len(images)
                images.append(augment(self.load(sample.image)[0], self.recipe, rng))
            for conversation in self._conversations(sample, join, rng):
                rows.append(self.encode(tuple((turn.question, turn.answer) for turn in conversation)))
                image_of_row.append(image)
        return collate(images, rows, image_of_row)

    def _draw(self, step: int) -> list[Sample]:
        """Samples without replacement within an epoch, each epoch in its own order."""
        size = self.recipe.images_per_step
        picked = []
        for position in range(step * size, (step + 1) * size):
            epoch, offset = divmod(position, len(self.samples))
            picked.append(self.samples[self._order(epoch)[offset]])
        return picked

    @lru_cache(maxsize=2)  # noqa: B019 (lives as long as the run)
    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.samples)).tolist()

    def _conversations(self, sample: Sample, join: bool, rng: np.random.Generator) -> list[tuple[Turn, ...]]:
        count = min(self.recipe.conversations_per_image, len(sample.conversations))
        drawn = [sample.conversations[i] for i in rng.choice(len(sample.conversations), count, replace=False)]
        if join:
            return [tuple(turn for conversation in drawn for turn in conversation)]
        return drawn


def cached_images(vision: VisionConfig) -> Callable[[Path | Picture], NDArray[np.uint8]]:
    """`load_image` at one size, with the last 512 MiB of pixels kept."""

    @lru_cache(maxsize=max(1, IMAGE_CACHE_BYTES // (3 * vision.image_size**2)))
    def load(path: Path | Picture) -> NDArray[np.uint8]:
        return load_image(path, vision.image_size, vision.resample)

    return load


def augment(pixels: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (S, S, 3), mirrored and moved as the recipe allows."""
    if recipe.mirror and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if recipe.shift:
        size, most = pixels.shape[0], recipe.shift
        padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="edge")
        top, left = rng.integers(2 * most + 1, size=2)
        pixels = padded[top : top + size, left : left + size]
    return pixels


def collate(
    images: list[NDArray[np.uint8]], rows: list[tuple[list[int], list[bool]]], image_of_row: list[int]
) -> Batch:
    """Pad rows of (ids, is_target) to the longest and shift the targets by one."""
    longest = max(len(ids) for ids, _ in rows) - 1
    input_ids = np.zeros((len(rows), longest), np.int64)
    labels = np.full((len(rows), longest), IGNORED, np.int64)
    for row, (ids, target) in enumerate(rows):
        input_ids[row, : len(ids) - 1] = ids[:-1]
        labels[row, : len(ids) - 1] = np.where(target[1:], ids[1:], IGNORED)
    pixels = np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)
    return Batch(
        torch.from_numpy(pixels), torch.from_numpy(input_ids), torch.from_numpy(labels), torch.tensor(image_of_row)
    )
