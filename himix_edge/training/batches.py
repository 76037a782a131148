"""Batches as a pure function of (seed, step, part): what a run sees after a restart, or with its steps shared among
processes, is what one uninterrupted process would have seen."""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from himix_edge.data import Sample, Turn
from himix_edge.text import TextProcessor
from himix_edge.training.pixels import Load
from himix_edge.training.recipe import Recipe

IGNORED = -100  # label of a token that the assistant does not have to produce
ENCODED = 1 << 16  # conversations whose tokens are kept


@dataclass(frozen=True)
class Batch:
    """pixels uint8 (I, S, S, 3); input_ids, labels int64 (R, T), right-padded; image_of_row int64 (R,), -1: no image.

    `labels[r, t]` is the token that should follow `input_ids[r, t]`, or IGNORED. `own_texts` int64 (K, L) are texts of
    the model's own, without questions.
    """

    pixels: Tensor
    input_ids: Tensor
    labels: Tensor
    image_of_row: Tensor
    own_texts: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))

    @property
    def targets(self) -> int:
        """How many tokens the assistant has to produce."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class BatchMaker(TorchDataset[list[Batch]]):
    """Draws, augments and tokenises the batches of one stage. Steps are counted from 0 within the stage.

    Attributes:
        samples: what is drawn from, without replacement within an epoch, each epoch in its own order.
        seed: numbers that decide every choice.
        own_texts: int64 (K, L), of which each step has the next ones.
        share: (first part, number of parts taken, parts of a step): what `maker[step]` gives this process.
    """

    samples: Sequence[Sample]
    text: TextProcessor
    recipe: Recipe
    load: Load
    seed: tuple[int, ...]
    own_texts: Tensor | None = None
    share: tuple[int, int, int] = (0, 1, 1)

    def __getitem__(self, step: int) -> list[Batch]:
        first, count, parts = self.share
        return [self.batch(step, part, parts) for part in range(first, first + count)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of the parts that a step's images are dealt to in turn."""
        images: list[NDArray[np.uint8]] = []
        rows: list[tuple[list[int], list[bool]]] = []
        image_of_row: list[int] = []
        # for the whole step, so that its rows have similar lengths
        join = np.random.default_rng([*self.seed, step]).random() < self.recipe.join
        for place in range(part, self.recipe.images_per_step, parts):
            sample, rng = self.draw(step, place), np.random.default_rng([*self.seed, step, place])
            image = -1
            if sample.image is not None and not self.recipe.blind:
                image = len(images)
                images.append(augment(self.load(sample.image)[0], self.recipe, rng))
            for conversation in self._conversations(sample, join, rng):
                rows.append(encode_conversation(self.text, conversation))
                image_of_row.append(image)
        batch = collate(images, rows, image_of_row)
        if self.own_texts is None:
            return batch
        count = self.recipe.own_texts_per_step
        chosen = torch.arange(step * count + part, (step + 1) * count, parts) % len(self.own_texts)
        return replace(batch, own_texts=self.own_texts[chosen])

    def draw(self, step: int, place: int) -> Sample:
        """The sample at one place of a step."""
        epoch, offset = divmod(step * self.recipe.images_per_step + place, len(self.samples))
        return self.samples[int(_order(self.seed, epoch, len(self.samples))[offset])]

    def _conversations(self, sample: Sample, join: bool, rng: np.random.Generator) -> list[tuple[Turn, ...]]:
        count = min(self.recipe.conversations_per_image, len(sample.conversations))
        drawn = [sample.conversations[i] for i in rng.choice(len(sample.conversations), count, replace=False)]
        if join:
            return [tuple(turn for conversation in drawn for turn in conversation)]
        return drawn


def shares(
    maker: BatchMaker, steps: range, process: int, processes: int, workers: int = 0
) -> Iterator[tuple[int, list[Batch]]]:
    """Of each step its number and this process's micro-batches, made ahead by `workers` processes (0: in this one)."""
    taken = maker.recipe.accumulate
    own = replace(maker, share=(process * taken, taken, processes * taken))
    ahead: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context("forkserver")  # a fork of this process would copy its threads' locks
        context.set_forkserver_preload([__name__])
        ahead = {"num_workers": workers, "prefetch_factor": 4, "multiprocessing_context": context}
    loader = DataLoader(own, batch_size=None, sampler=steps, **ahead)
    yield from zip(steps, loader, strict=True)


@lru_cache(maxsize=4)
def _order(seed: tuple[int, ...], epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([*seed, epoch, 0, 1]).permutation(count)


@lru_cache(maxsize=ENCODED)
def encode_conversation(text: TextProcessor, conversation: tuple[Turn, ...]) -> tuple[list[int], list[bool]]:
    """`TextProcessor.encode_conversation`, the last ones kept."""
    return text.encode_conversation([(turn.question, turn.answer) for turn in conversation])


def augment(pixels: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (S, S, 3), mirrored, moved, and brightened or darkened, as the recipe allows."""
    if recipe.mirror and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if recipe.shift:
        size, most = pixels.shape[0], recipe.shift
        padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="edge")
        top, left = rng.integers(2 * most + 1, size=2)
        pixels = padded[top : top + size, left : left + size]
    if recipe.jitter:
        contrast, brightness = 1 + recipe.jitter * rng.uniform(-1, 1, 2)
        levels = ((np.arange(256) - 128) * contrast + 128) * brightness
        pixels = levels.clip(0, 255).astype(np.uint8)[pixels]
    return pixels


def collate(
    images: list[NDArray[np.uint8]], rows: list[tuple[list[int], list[bool]]], image_of_row: list[int]
) -> Batch:
    """Pad rows of (ids, is_target) to the longest and shift the targets by one."""
    longest = max((len(ids) for ids, _ in rows), default=1) - 1
    input_ids = np.zeros((len(rows), longest), np.int64)
    labels = np.full((len(rows), longest), IGNORED, np.int64)
    for row, (ids, target) in enumerate(rows):
        input_ids[row, : len(ids) - 1] = ids[:-1]
        labels[row, : len(ids) - 1] = np.where(target[1:], ids[1:], IGNORED)
    pixels = np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)
    return Batch(
        torch.from_numpy(pixels), torch.from_numpy(input_ids), torch.from_numpy(labels),
        torch.tensor(image_of_row, dtype=torch.int64),
    )  # fmt: skip
