"""Batches as a pure function of (seed, step, part): what a run sees after a restart, or with its steps shared among
processes, is what one uninterrupted process would have seen."""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from himix_edge.data import Sample, Turn
from himix_edge.errors import HimixError, InputError
from himix_edge.text import TextProcessor
from himix_edge.training.augment import augment
from himix_edge.training.batch import Batch, Row, collate, read_around_picture
from himix_edge.training.pixels import Load
from himix_edge.training.recipe import Recipe

ENCODED = 1 << 16  # conversations whose tokens are kept


@dataclass(frozen=True)
class BatchMaker(TorchDataset[list[Batch] | HimixError]):
    """Draws, augments and tokenises the batches of one stage. Steps are counted from 0 within the stage.

    Attributes:
        data: sequences of samples. A step draws from one of them, so that its rows have similar lengths; the larger one
            has more steps. Samples come without replacement within an epoch, each epoch in its own order.
        seed: numbers that decide every choice.
        own_texts: int64 (O, L), of which steps have the next ones, see Recipe.own_texts_every.
        theirs: the text of a teacher whose pictures stand in it, see Batch.theirs.
        share: (first part, number of parts taken, parts of a step): what `maker[step]` gives this process.
    """

    data: Sequence[Sequence[Sample]]
    text: TextProcessor
    recipe: Recipe
    load: Load
    seed: tuple[int, ...]
    own_texts: Tensor | None = None
    theirs: TextProcessor | None = None
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
        said: list[tuple[Turn, ...]] = []
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
            said += conversations
        order = sorted(range(len(rows)), key=lambda i: rows[i].place())
        batch = collate(images, [rows[i] for i in order])
        if self.theirs is not None:
            batch = replace(
                batch, theirs=collate([], [read_around_picture(self.theirs, said[i], rows[i].image) for i in order])
            )
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
    context = None
    if workers:
        context = multiprocessing.get_context("forkserver")  # a fork of this process would copy its threads' locks
        context.set_forkserver_preload([__name__])
    loader = DataLoader(
        own, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=4 if workers else None,
        multiprocessing_context=context,
    )  # fmt: skip
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
