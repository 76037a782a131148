"""Exact-match accuracy of greedy answers in batches, without generating them one by one.

If at every position the most likely token is the expected one, greedy decoding produces exactly the expected answer,
and the other way round; so one teacher-forced pass decides what greedy generation would say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from himix_edge.data import Sample, Turn
from himix_edge.model import KVCache, VisionLanguageModel
from himix_edge.text import TextProcessor
from himix_edge.training.batch import IGNORED, Batch, Row, collate, read_around_picture
from himix_edge.training.pixels import Load


def answer_logits(model: VisionLanguageModel, batch: Batch, features: Tensor) -> Tensor:
    """Logits (K, V) float32 at the batch's K target positions.

    `features` (I, N, d_v) are the batch's encoded images; one is injected once, whatever the number of rows about it.
    """
    return logits_behind(model, batch, model.inject(features) if len(batch.image_of_row) else None)


def logits_behind(model: VisionLanguageModel, batch: Batch, images: KVCache | None) -> Tensor:
    """The same with the images' keys and values, I of them."""
    seeing = len(batch.image_of_row)
    states, row = [], 0
    for count, length in batch.blocks:
        past = images.select(batch.image_of_row[row : row + count]) if images and row < seeing else None
        states.append(model.hidden(batch.input_ids[row : row + count, :length], past)[0])
        row += count
    return model.project_out(at_targets(states, batch)).float()


def at_targets(states: Sequence[Tensor], batch: Batch) -> Tensor:
    """Of states (R, T, d) of each of the batch's blocks those at its target positions, (K, d)."""
    longest = batch.input_ids.shape[1]
    padded = [F.pad(block, (0, 0, 0, longest - block.shape[1])) for block in states]
    return torch.cat(padded).flatten(0, 1)[batch.positions]


def encode(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """The batch's images as vision features (I, N, d_v); none is I = 0."""
    if len(batch.pixels):
        return model.encode_image(batch.pixels)
    return torch.zeros(0, 0, model.config.vision_hidden_size or 0, device=batch.pixels.device)


def answered(logits: Tensor, batch: Batch) -> Tensor:
    """Per row, whether every target token is the most likely one: bool (R,)."""
    wrong = torch.zeros(len(batch.input_ids), dtype=torch.int64, device=logits.device)
    missed = (logits.argmax(-1) != batch.labels) & (batch.labels != IGNORED)
    return wrong.index_add(0, batch.row_of_target, missed.long()) == 0


def question_batches(
    samples: Sequence[Sample],
    text: TextProcessor,
    load: Load,
    blind: bool = False,
    images_per_batch: int = 32,
    theirs: TextProcessor | None = None,
) -> Iterator[tuple[list[Turn], Batch]]:
    """Every conversation of `samples` in batches, and each one's last turn.

    Args:
        samples: images and conversations.
        text: the model's tokenizer and template.
        load: image -> pixels uint8 (1, S, S, 3).
        blind: leave the images out.
        images_per_batch: samples of one batch.
        theirs: of a teacher whose pictures stand in its text, see `Batch.theirs`.
    """
    for start in range(0, len(samples), images_per_batch):
        images: list[NDArray[np.uint8]] = []
        rows: list[tuple[Row, tuple[Turn, ...]]] = []
        for sample in samples[start : start + images_per_batch]:
            image = None
            if sample.image is not None and not blind:
                image = len(images)
                images.append(load(sample.image)[0])
            for conversation in sample.conversations:
                encoded = text.encode_conversation([(turn.question, turn.answer) for turn in conversation])
                rows.append((Row(*encoded, image), conversation))
        rows.sort(key=lambda one: one[0].place())
        batch = collate(images, [row for row, _ in rows])
        if theirs is not None:
            read = [read_around_picture(theirs, conversation, row.image) for row, conversation in rows]
            batch = replace(batch, theirs=collate([], read))
        yield [conversation[-1] for _, conversation in rows], batch


@torch.no_grad()
def exact_answers(
    model: VisionLanguageModel, text: TextProcessor, samples: Sequence[Sample], load: Load, blind: bool = False
) -> Iterator[tuple[Turn, bool]]:
    """Every conversation of `samples`: its last turn, and whether all of it would be answered exactly.

    Args:
        model: on any device.
        text, samples, load, blind: see `question_batches`.
    """
    device = next(model.parameters()).device
    for turns, made in question_batches(samples, text, load, blind):
        batch = made.to(device)
        right = answered(answer_logits(model, batch, encode(model, batch)), batch)
        yield from zip(turns, right.tolist(), strict=True)
