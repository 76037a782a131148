"""An image's tokens pooled: what a vanilla model's keys and values are then, and what its answers lose, measured.

Squares of tokens become one, whose keys, before they are rotated, and values are the means of theirs. A text sees one
slot in place of several, so an image has less of its attention than it had.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch.nn import functional as F

from himix_edge.data import Sample
from himix_edge.distillation.layers import ENOUGH, IMAGES_PER_BATCH
from himix_edge.distillation.rows import nothing, placed, pool_rows, teacher_rows
from himix_edge.errors import InputError
from himix_edge.model import VanillaModel
from himix_edge.text import TextProcessor
from himix_edge.training.pixels import Load
from himix_edge.training.teacher_forced import encode, logits_behind, question_batches

Watch = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class PoolingUse:
    """Losses of the data's answers, in nats a token.

    Attributes:
        losses: by the side of the squares; 1 is all tokens, each by itself.
        blind: without the image.
    """

    losses: dict[int, float]
    blind: float

    def choice(self) -> int:
        """The largest squares that lose at most ENOUGH of what the image is worth."""
        most = self.losses[1] + ENOUGH * max(0.0, self.blind - self.losses[1])
        return max(side for side, loss in self.losses.items() if loss <= most)


def sides(tokens: int) -> list[int]:
    """The sides of squares that a square grid of so many tokens can be cut into. Raises InputError for another."""
    grid = isqrt(tokens)
    if grid**2 != tokens:
        raise InputError(f"--pooling auto: {tokens} tokens are no square grid")
    return [side for side in range(1, grid + 1) if grid % side == 0]


@torch.inference_mode()
def pooling_use(
    teacher: VanillaModel,
    text: TextProcessor,
    samples: Sequence[Sample],
    load: Load,
    positions: Literal["none", "sequence"],
    layers: tuple[int, ...] | None,
    watch: Watch,
    before: Sequence[int] = (),
) -> PoolingUse:
    """Measure what answers lose by each size of squares.

    Args:
        teacher: a vanilla model, its image's tokens in front or one tile in its text.
        text: of it.
        samples: with images.
        load: image -> pixels uint8 (1, S, S, 3).
        positions: of a student, see `Injection`.
        layers: of the decoder that see the image; None: all.
        watch: hands on the numbers of batches, for a progress bar.
        before: ids of the words that stand in front of a picture in the teacher's text.
    """
    known, batches = sides(teacher.config.tile_tokens), question_batches(samples, text, load, False, IMAGES_PER_BATCH)
    sums, blind, answers = dict.fromkeys(known, 0.0), 0.0, 0
    for _ in watch(range(-(-len(samples) // IMAGES_PER_BATCH))):
        _, batch = next(batches)
        rows = teacher_rows(teacher, teacher.connect(encode(teacher, batch)), before)
        seen = [row if layers is None or layer in layers else nothing(row) for layer, row in enumerate(rows)]
        tried = {side: placed(teacher, pool_rows(seen, side), positions) for side in known}
        losses = {
            side: float(F.cross_entropy(logits_behind(teacher, batch, cache), batch.labels, reduction="sum"))
            for side, cache in {**tried, 0: placed(teacher, [nothing(row) for row in rows], positions)}.items()
        }
        blind += losses.pop(0)
        sums = {side: sums[side] + losses[side] for side in known}
        answers += batch.targets
    return PoolingUse({side: total / answers for side, total in sums.items()}, blind / answers)
