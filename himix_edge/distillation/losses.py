"""What a student's answers lose, and by which layer's keys and values.

One layer after the other takes the student's keys and values of the image while the others have the teacher's, and the
loss of the data's answers tells what that costs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch.nn import functional as F

from himix_edge.data import Sample
from himix_edge.distillation.pooling import pool_rows, teacher_rows
from himix_edge.model import HiMixModel, KVCache, VanillaModel
from himix_edge.model.vlm import VisionRows
from himix_edge.text import TextProcessor
from himix_edge.training.batch import Batch
from himix_edge.training.pixels import Load
from himix_edge.training.teacher_forced import encode, logits_behind, question_batches

IMAGES_PER_BATCH = 32
Watch = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class AnswerLosses:
    """Losses of the data's answers, in nats a token.

    Attributes:
        teacher: of the teacher.
        student: of the student.
        kept: share of the answers' tokens for which both find the same one likeliest.
        exact: of the student with the teacher's keys and values, pooled as its own are, in every layer that sees the
            image.
        layers: with the student's own in this layer alone.
    """

    teacher: float
    student: float
    kept: float
    exact: float
    layers: dict[int, float]


@torch.inference_mode()
def answer_losses(
    teacher: VanillaModel, student: HiMixModel, text: TextProcessor, samples: Sequence[Sample], load: Load, watch: Watch
) -> AnswerLosses:
    """Losses on conversations about images.

    Args:
        teacher: a vanilla model.
        student: a HiMix model on its tower and decoder.
        text: of both.
        samples: with images.
        load: image -> pixels uint8 (1, S, S, 3).
        watch: hands on the layers that see the image, for a progress bar.
    """
    batches, rows = [], []
    pooling = isqrt(teacher.config.tile_tokens // student.config.tile_tokens)
    for _, batch in question_batches(samples, text, load, images_per_batch=IMAGES_PER_BATCH):
        features = encode(teacher, batch)
        batches.append((batch, teacher.inject(features)))
        tokens = teacher.connect(features)
        made = pool_rows(teacher_rows(teacher, tokens), pooling)
        exact = [(student.place(made[layer][0]), made[layer][1]) for layer in student.config.injected_layers]
        rows.append((student.project_image(features), exact))

    def loss(choose: Callable[[VisionRows, VisionRows], VisionRows]) -> float:
        found = [
            _loss_sum(student, batch, student.start(choose(*pair)))
            for (batch, _), pair in zip(batches, rows, strict=True)
        ]
        return sum(found) / answers

    answers = sum(batch.targets for batch, _ in batches)
    layers = {
        layer: loss(lambda own, exact, at=at: [*exact[:at], own[at], *exact[at + 1 :]])  # type: ignore[misc]
        for at, layer in enumerate(watch(student.config.injected_layers))
    }
    same = sum(
        int((logits_behind(teacher, batch, images).argmax(-1)
             == logits_behind(student, batch, student.start(own)).argmax(-1)).sum())
        for (batch, images), (own, _) in zip(batches, rows, strict=True)
    )  # fmt: skip
    return AnswerLosses(
        sum(_loss_sum(teacher, batch, images) for batch, images in batches) / answers,
        loss(lambda own, _: own), same / answers, loss(lambda _, exact: exact), layers,
    )  # fmt: skip


def _loss_sum(model: VanillaModel | HiMixModel, batch: Batch, images: KVCache) -> float:
    return float(F.cross_entropy(logits_behind(model, batch, images), batch.labels, reduction="sum"))


def one_question_each(samples: Iterable[Sample]) -> list[Sample]:
    """Of each sample with an image one conversation, not always the first."""
    seen = [sample for sample in samples if sample.image is not None]
    return [
        Sample(sample.image, (sample.conversations[i % len(sample.conversations)],), sample.where)
        for i, sample in enumerate(seen)
    ]
