"""What a student's answers lose, and by which layer's keys and values.

One layer after the other takes the student's keys and values of the image while the others have the teacher's, and the
loss of the data's answers tells what that costs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.data import Sample
from himix_edge.distillation.rows import pool_rows, teacher_rows
from himix_edge.model import HiMixModel, VanillaModel
from himix_edge.model.vlm import VisionRows
from himix_edge.text import TextProcessor
from himix_edge.training.batch import Batch
from himix_edge.training.pixels import Load
from himix_edge.training.teacher import Teacher
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
    teacher: Teacher, student: HiMixModel, text: TextProcessor, samples: Sequence[Sample], load: Load, watch: Watch
) -> AnswerLosses:
    """Losses on conversations about images.

    Args:
        teacher: of a vanilla model.
        student: a HiMix model on its tower and decoder.
        text: the student's.
        samples: with images.
        load: image -> pixels uint8 (1, S, S, 3).
        watch: hands on the layers that see the image, for a progress bar.
    """
    model = teacher.model
    assert isinstance(model, VanillaModel)
    pooling = isqrt(model.config.tile_tokens // student.config.tile_tokens)
    batches, rows, likeliest, taught = [], [], [], 0.0
    for _, batch in question_batches(samples, text, load, images_per_batch=IMAGES_PER_BATCH, theirs=teacher.text):
        features = encode(model, batch)
        logits = teacher.say(batch, features, attention=False).logits
        taught += _sum(logits, batch)
        likeliest.append(logits.argmax(-1))
        made = pool_rows(teacher_rows(model, model.connect(features), teacher.before), pooling)
        exact = [(student.place(made[layer][0]), made[layer][1]) for layer in student.config.injected_layers]
        own = student.project_image(student.encode_image(batch.pixels) if pooling > 1 else features)
        batches.append(batch)
        rows.append((own, exact))

    def loss(choose: Callable[[VisionRows, VisionRows], VisionRows]) -> float:
        made = zip(batches, rows, strict=True)
        return sum(_sum(logits_behind(student, b, student.start(choose(*pair))), b) for b, pair in made) / answers

    answers = sum(batch.targets for batch in batches)
    layers = {
        layer: loss(lambda own, exact, at=at: [*exact[:at], own[at], *exact[at + 1 :]])  # type: ignore[misc]
        for at, layer in enumerate(watch(student.config.injected_layers))
    }
    same = sum(
        int((best == logits_behind(student, batch, student.start(own)).argmax(-1)).sum())
        for best, batch, (own, _) in zip(likeliest, batches, rows, strict=True)
    )
    return AnswerLosses(
        taught / answers, loss(lambda own, _: own), same / answers, loss(lambda _, exact: exact), layers,
    )  # fmt: skip


def _sum(logits: Tensor, batch: Batch) -> float:
    return float(F.cross_entropy(logits, batch.labels, reduction="sum"))


def one_question_each(samples: Iterable[Sample]) -> list[Sample]:
    """Of each sample with an image one conversation, not always the first."""
    seen = [sample for sample in samples if sample.image is not None]
    return [
        Sample(sample.image, (sample.conversations[i % len(sample.conversations)],), sample.where)
        for i, sample in enumerate(seen)
    ]
