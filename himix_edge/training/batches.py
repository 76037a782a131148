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
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from himix_edge.data import Sample, Turn
from himix_edge.errors import HimixError, InputError
from himix_edge.text import TextProcessor
from himix_edge.training.pixels import Load
from himix_edge.training.recipe import Recipe

IGNORED = -100  # label of a token that the assistant does not have to produce
ENCODED = 1 << 16  # conversations whose tokens are kept
BLOCK_TOKENS = 100  # tokens that could be computed in the time that starting one more block's operations takes


@dataclass(frozen=True)
class Batch:
    """Rows of tokens about images; all that decides a shape is known on the CPU, so a GPU never has to be waited for.

    Attributes:
        pixels: uint8 (I, S, S, 3).
        input_ids: int64 (R, T), right-padded; the rows about an image come first, and of either sort the short ones.
        image_of_row: int64 (A,), of those rows, A <= R.
        positions: int64 (K,), places of the target tokens' predecessors in the flattened input_ids.
        labels: int64 (K,), the token that should follow each of them, or IGNORED.
        blocks: rows that follow each other and are decoded together, as (number of rows, tokens of the longest): what
            is padded for a short row among long ones is lost time. All about an image, or none.
        own_texts: int64 (O, L), texts of the model's own, without questions.
    """

    pixels: Tensor
    input_ids: Tensor
    image_of_row: Tensor
    positions: Tensor
    labels: Tensor
    blocks: tuple[tuple[int, int], ...]
    own_texts: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))

    @property
    def targets(self) -> int:
        """How many tokens the assistant has to produce."""
        return int((self.labels != IGNORED).sum())

    @property
    def row_of_target(self) -> Tensor:
        """int64 (K,)."""
        return self.positions // self.input_ids.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        there: dict[str, Any] = {name: one.to(device, non_blocking=True) for name, one in self.tensors.items()}
        return replace(self, **there)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class BatchMaker(TorchDataset[list[Batch] | HimixError]):
    """Draws, augments and tokenises the batches of one stage. Steps are counted from 0 within the stage.

    Attributes:
        data: sequences of samples. A step draws from one of them, so that its rows have similar lengths; the larger one
            has more steps. Samples come without replacement within an epoch, each epoch in its own order.
        seed: numbers that decide every choice.
        own_texts: int64 (O, L), of which steps have the next ones, see Recipe.own_texts_every.
        share: (first part, number of parts taken, parts of a step): what `maker[step]` gives this process.
    """

    data: Sequence[Sequence[Sample]]
    text: TextProcessor
    recipe: Recipe
    load: Load
    seed: tuple[int, ...]
    own_texts: Tensor | None = None
    share: tuple[int, int, int] = (0, 1, 1)

    def __getitem__(self, step: int) -> list[Batch] | HimixError:
        """The batches of a step; in a worker process what is wrong is given back, as raised there it loses its kind."""
        if get_worker_info() is None:
            return self._batches(step)
        try:
            return self._batches(step)
        except HimixError as error:
            return error

    def _batches(self, step: int) -> list[Batch]:
        first, count, parts = self.share
        return [self.batch(step, part, parts) for part in range(first, first + count)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of the parts that a step's images are dealt to in turn."""
        images: list[NDArray[np.uint8]] = []
        rows: list[Row] = []
        # for the whole step, so that its rows have similar lengths
        join = np.random.default_rng([*self.seed, step]).random() < self.recipe.join
        places = range(part, self.recipe.images_per_step, parts)
        drawn = [(self.draw(step, place), np.random.default_rng([*self.seed, step, place])) for place in places]
        for sample, rng in drawn:
            conversations, image = self._conversations(sample, join, rng), None
            if sample.image is not None and not self.recipe.blind:
                image = len(images)
                images.append(augment(self._pixels(sample), self.recipe, rng))
            rows += [Row(*encode_conversation(self.text, conversation), image) for conversation in conversations]
        batch = collate(images, sorted(rows, key=Row.place))
        earlier, others = divmod(step, self.recipe.own_texts_every)
        if self.own_texts is None or others:
            return batch
        count = self.recipe.own_texts_per_step
        chosen = torch.arange(earlier * count + part, (earlier + 1) * count, parts) % len(self.own_texts)
        return replace(batch, own_texts=self.own_texts[chosen])

    def _pixels(self, sample: Sample) -> NDArray[np.uint8]:
        assert sample.image is not None
        try:
            return self.load(sample.image)[0]
        except InputError as error:
            raise InputError(f"{sample.where}: {error}" if sample.where else str(error)) from None

    def draw(self, step: int, place: int) -> Sample:
        """The sample at one place of a step."""
        chosen, earlier = _turn(self.seed, tuple(map(len, self.data)), step)
        samples = self.data[chosen]
        epoch, offset = divmod(earlier * self.recipe.images_per_step + place, len(samples))
        return samples[int(_order((*self.seed, chosen), epoch, len(samples))[offset])]

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
    for step, batches in zip(steps, loader, strict=True):
        if isinstance(batches, HimixError):
            raise batches
        yield step, batches


@lru_cache(maxsize=4)
def _turn(seed: tuple[int, ...], sizes: tuple[int, ...], step: int) -> tuple[int, int]:
    """Which of the sequences of these sizes a step draws from, and how many earlier steps did."""
    share = np.array(sizes) / sum(sizes)
    chosen = np.random.default_rng([*seed, 0, 2]).choice(len(sizes), step + 1, p=share)
    return int(chosen[-1]), int((chosen[:-1] == chosen[-1]).sum())


@lru_cache(maxsize=4)
def _order(seed: tuple[int, ...], epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([*seed, epoch, 0, 1]).permutation(count)


@lru_cache(maxsize=ENCODED)
def encode_conversation(text: TextProcessor, conversation: tuple[Turn, ...]) -> tuple[list[int], list[bool]]:
    """`TextProcessor.encode_conversation`, the last ones kept."""
    return text.encode_conversation([(turn.question, turn.answer) for turn in conversation])


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


@dataclass(frozen=True)
class Row:
    """A conversation's tokens, which of them the assistant has to produce, and its image's number in the batch."""

    ids: list[int]
    is_target: list[bool]
    image: int | None

    def place(self) -> tuple[bool, int]:
        """What rows of a batch are sorted by."""
        return self.image is None, len(self.ids)


def collate(images: list[NDArray[np.uint8]], rows: list[Row]) -> Batch:
    """Pad rows, sorted by `Row.place`, to the longest, and find what has to be predicted."""
    lengths = [len(row.ids) - 1 for row in rows]
    longest = max(lengths, default=0)
    input_ids = np.zeros((len(rows), longest), np.int64)
    positions: list[int] = []
    labels: list[int] = []
    for number, row in enumerate(rows):
        input_ids[number, : lengths[number]] = row.ids[:-1]
        places = [place for place, target in enumerate(row.is_target[1:]) if target]
        positions += [number * longest + place for place in places]
        labels += [row.ids[place + 1] for place in places]
    pixels = np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)
    image_of_row = [row.image for row in rows if row.image is not None]
    seeing = len(image_of_row)
    return Batch(
        pixels=torch.from_numpy(pixels),
        input_ids=torch.from_numpy(input_ids),
        image_of_row=torch.tensor(image_of_row, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64),
        blocks=(*blocks(tuple(lengths[:seeing])), *blocks(tuple(lengths[seeing:]))),
    )


def blocks(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cut rows of these ascending lengths into blocks, so that the tokens computed, and what a block costs, are least.

    Returns:
        of each block the number of rows and of tokens of its longest.
    """
    ends = [i for i in range(1, len(lengths) + 1) if i == len(lengths) or lengths[i] > lengths[i - 1]]
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for end in ends:
        length = lengths[end - 1]
        best[end] = min(
            (cost + BLOCK_TOKENS + (end - begin) * length, [*cut, (end - begin, length)])
            for begin, (cost, cut) in best.items()
        )
    return best[len(lengths)][1]
