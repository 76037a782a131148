"""Exact-match accuracy of greedy answers in batches, without generating them one by one.

If at every position the most likely token is the expected one, greedy decoding produces exactly the expected answer,
and the other way round; so one teacher-forced pass decides what greedy generation would say.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himix_edge.data import Sample, Turn
from himix_edge.model import VisionLanguageModel
from himix_edge.text import TextProcessor
from himix_edge.training.batches import IGNORED, Batch, collate
from himix_edge.training.pixels import ImageLoader, Load


def answer_states(model: VisionLanguageModel, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (K, V) float32 at the K target positions, their labels (K,), and each one's row (K,).

    `features` (I, N, d_v) are the batch's encoded images; one is injected once, whatever the number of rows about it.
    """
    logits, labels, rows = [], [], []
    for has_image in (True, False):
        chosen = (batch.image_of_row >= 0) == has_image
        if not chosen.any():
            continue
        past = None
        if has_image:
            past = model.inject(features).select(batch.image_of_row[chosen])
        states, _ = model.hidden(batch.input_ids[chosen], past)
        target = batch.labels[chosen] != IGNORED
        logits.append(model.project_out(states[target]).float())
        labels.append(batch.labels[chosen][target])
        rows.append(chosen.nonzero()[:, 0][target.nonzero()[:, 0]])
    return torch.cat(logits), torch.cat(labels), torch.cat(rows)


def encode(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """The batch's images as vision features (I, N, d_v); none is I = 0."""
    if len(batch.pixels):
        return model.encode_image(batch.pixels)
    return torch.zeros(0, 0, model.config.vision_hidden_size or 0, device=batch.pixels.device)


def answered(logits: Tensor, labels: Tensor, rows: Tensor, count: int) -> Tensor:
    """Per row, whether every target token is the most likely one: bool (count,)."""
    wrong = torch.zeros(count, dtype=torch.int64, device=rows.device)
    wrong.index_add_(0, rows, (logits.argmax(-1) != labels).long())
    return wrong == 0


def question_batches(
    samples: Sequence[Sample], text: TextProcessor, load: Load, blind: bool = False, images_per_batch: int = 16
) -> Iterator[tuple[list[Turn], Batch]]:
    """Every conversation of `samples` in batches, and each one's last turn.

    Args:
        samples: images and conversations.
        text: the model's tokenizer and template.
        load: image -> pixels uint8 (1, S, S, 3).
        blind: leave the images out.
        images_per_batch: samples of one batch.
    """
    for start in range(0, len(samples), images_per_batch):
        images: list[NDArray[np.uint8]] = []
        rows: list[tuple[list[int], list[bool]]] = []
        image_of_row: list[int] = []
        turns: list[Turn] = []
        for sample in samples[start : start + images_per_batch]:
            image = -1
            if sample.image is not None and not blind:
                image = len(images)
                images.append(load(sample.image)[0])
            for conversation in sample.conversations:
                rows.append(text.encode_conversation([(turn.question, turn.answer) for turn in conversation]))
                image_of_row.append(image)
                turns.append(conversation[-1])
        yield turns, collate(images, rows, image_of_row)


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
        right = answered(*answer_states(model, batch, encode(model, batch)), len(turns))
        yield from zip(turns, right.tolist(), strict=True)


def exact_match(model: VisionLanguageModel, text: TextProcessor, samples: Sequence[Sample]) -> tuple[int, int]:
    """(right, asked): over every conversation of `samples`, how many would be answered exactly."""
    assert model.config.vision is not None, "evaluation on images needs a tower"
    right = [exact for _, exact in exact_answers(model, text, samples, ImageLoader(model.config.vision))]
    return sum(right), len(right)
