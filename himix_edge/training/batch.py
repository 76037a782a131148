"""One batch: rows of tokens about images, padded and cut into blocks so that little is computed in vain."""

from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himix_edge.data import Turn
from himix_edge.text import TextProcessor

IGNORED = -100  # label of a token that the assistant does not have to produce
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
        theirs: the same rows as a teacher reads them whose pictures stand in its text: without pixels, with the same
            targets; None: as this one.
    """

    pixels: Tensor
    input_ids: Tensor
    image_of_row: Tensor
    positions: Tensor
    labels: Tensor
    blocks: tuple[tuple[int, int], ...]
    own_texts: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    theirs: "Batch | None" = None

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
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            input_ids=self.input_ids.to(device, non_blocking=True),
            image_of_row=self.image_of_row.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            own_texts=self.own_texts.to(device, non_blocking=True),
            theirs=None if self.theirs is None else self.theirs.to(device),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Row:
    """A conversation's tokens, which of them the assistant has to produce, and its image's number in the batch."""

    ids: list[int]
    is_target: list[bool]
    image: int | None

    def place(self) -> tuple[bool, int]:
        """What rows of a batch are sorted by."""
        return self.image is None, len(self.ids)


def read_around_picture(text: TextProcessor, conversation: tuple[Turn, ...], image: int | None) -> Row:
    """A conversation behind a picture, whose K/V hold the words in front of it, or without one."""
    turns = [(turn.question, turn.answer) for turn in conversation]
    encode = text.encode_conversation if image is None else text.encode_conversation_behind_pictures
    return Row(*encode(turns), image)


def collate(images: list[NDArray[np.uint8]], rows: list[Row]) -> Batch:
    """Pad rows to the longest, and find what has to be predicted.

    They are sorted by `Row.place`, or nearly: a row behind a longer one is padded to it.
    """
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
        blocks=tuple(
            block for sort in (lengths[:seeing], lengths[seeing:]) for block in blocks(tuple(accumulate(sort, max)))
        ),
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
