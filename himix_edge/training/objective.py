"""What is minimised: the loss of the answers, what a teacher would have said, and for a tower a loss of its own."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import ModelConfig
from himix_edge.model import VisionLanguageModel
from himix_edge.training.batch import IGNORED, Batch
from himix_edge.training.lora import without_adapters
from himix_edge.training.recipe import Stage
from himix_edge.training.teacher import Said, Teacher, attention_distance, divergence, say
from himix_edge.training.teacher_forced import answered, encode

RARE = -6.0  # logit of a word at a place, before anything is learned


class Losses(NamedTuple):
    """Sums over a batch's target tokens, to be divided by their number in the whole step.

    Attributes:
        loss: what is minimised.
        answers: cross-entropy of the answers; of the tower's guesses if the decoder did not run.
        divergence: from the teacher's distributions, in nats; 0 without a teacher.
        right: for each row whether every target token is the most likely one: bool (R,).
    """

    loss: Tensor
    answers: Tensor
    divergence: Tensor
    right: Tensor


class Objective(nn.Module):
    """A model and the head of its tower's own loss; called with a batch, so that DDP and FSDP can wrap it.

    Args:
        in_bfloat16: whether matrix products are computed in bfloat16.
        words: tokens that the tower learns to see, for stages with a tower_loss.
        teacher: whom stages with a teacher_loss or an attention_loss learn from; no part of the module.
        temperature: see Recipe.temperature.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        in_bfloat16: bool,
        words: Sequence[int] = (),
        teacher: Teacher | None = None,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.model, self.in_bfloat16 = model, in_bfloat16
        self.head = WordHead(model.config, words) if words else None
        self.teacher, self.temperature = teacher, temperature

    def forward(self, batch: Batch, stage: Stage) -> Losses:
        """The losses of a batch in a stage; without gradients, as in validation, the teacher is not asked."""
        device = batch.input_ids.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.in_bfloat16):
            with torch.set_grad_enabled(torch.is_grad_enabled() and "tower" in stage.learn):
                features = encode(self.model, batch)
            loss = answers = apart = features.new_zeros((), dtype=torch.float32)
            right = torch.zeros(len(batch.input_ids), dtype=torch.bool, device=batch.input_ids.device)
            if stage.decodes:
                teacher = self.teacher if stage.taught and torch.is_grad_enabled() else None
                images = self.model.inject(features) if len(batch.image_of_row) else None
                said = say(self.model, batch, images, teacher.layers if teacher and stage.attention_loss else ())
                answers = F.cross_entropy(said.logits, batch.labels, ignore_index=IGNORED, reduction="sum")
                right = answered(said.logits.detach(), batch)
                loss = stage.answer_loss * answers
                loss = loss + (stage.answer_loss + stage.teacher_loss) * self._own_texts(batch.own_texts)
                if teacher is not None:
                    taught, apart = self._taught(teacher, said, batch, features, stage)
                    loss = loss + taught
            if stage.tower_loss and self.head is not None:
                loss = loss + stage.tower_loss * tower_loss(features, self.head, batch)
        return Losses(loss, (answers if stage.decodes else loss).detach(), apart.detach(), right)

    def _taught(
        self, teacher: Teacher, said: Said, batch: Batch, features: Tensor, stage: Stage
    ) -> tuple[Tensor, Tensor]:
        """What the teacher adds to the loss, and the divergence from its distributions."""
        theirs, asked = teacher.say(batch, features, bool(stage.attention_loss)), batch.labels != IGNORED
        apart = divergence(said, theirs, asked, self.temperature)
        loss = stage.teacher_loss * apart
        if stage.attention_loss:
            loss = loss + stage.attention_loss * attention_distance(said, theirs, asked)
        return loss, apart

    def _own_texts(self, ids: Tensor) -> Tensor | float:
        """KL divergence of the next tokens' distributions in texts (O, L) from those before the adapters learned."""
        if not len(ids):
            return 0.0
        with torch.no_grad(), without_adapters(self.model):
            before = self.model.decode(ids)[0].log_softmax(-1)
        now = self.model.decode(ids)[0].log_softmax(-1)
        return F.kl_div(now.flatten(0, 1), before.flatten(0, 1), reduction="sum", log_target=True)


class WordHead(nn.Module):
    """Which words each place of an image shows. It serves the tower's loss and is not part of the model."""

    words: Tensor
    column: Tensor

    def __init__(self, config: ModelConfig, words: Sequence[int]):
        super().__init__()
        assert config.vision_hidden_size is not None
        self.linear = nn.Linear(config.vision_hidden_size, len(words))
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, RARE)
        self.register_buffer("words", torch.tensor(words), persistent=False)
        column = torch.full((config.decoder.vocab_size,), len(words))  # all others are one, which is not learned
        column[self.words] = torch.arange(len(words))
        self.register_buffer("column", column, persistent=False)

    def at_places(self, features: Tensor) -> Tensor:
        """(I, N, d_v) -> logits (I, N, W) of each place's showing each word."""
        scaled = F.rms_norm(features.float(), features.shape[-1:], eps=1e-5)
        logits: Tensor = self.linear(scaled)
        return logits.float()

    def forward(self, features: Tensor) -> Tensor:
        """(I, N, d_v) -> logits (I, W) of each word's being anywhere in the image."""
        return self.at_places(features).logsumexp(1)


def tower_loss(features: Tensor, head: WordHead, batch: Batch) -> Tensor:
    """Cross-entropy of whether each word that `head` knows is among an image's answers, summed over words and images.

    A tower gets its first useful gradients this way: through a decoder that has not learned to look they take many
    times longer. Somewhere in the image is a place that shows the word, and the likeliest counts (multiple instance
    learning: Fang et al., arXiv 1411.4952; by a soft maximum: Pinheiro and Collobert, arXiv 1411.6228), so that a place
    learns to say what it shows. The answers must name everything that the image shows, as captions do.

    Args:
        features: (I, N, d_v); batch: the rows about them; those without an image are left out.
    """
    guesses = head(features)
    if not len(features):
        return guesses.sum()  # nothing to learn, but of several processes each takes part
    row, seeing, others = batch.row_of_target, len(batch.image_of_row), guesses.shape[1]
    image = batch.image_of_row[row.clamp(max=seeing - 1)]
    word = head.column[batch.labels.clamp(min=0)].where((row < seeing) & (batch.labels != IGNORED), others)
    shown = guesses.new_zeros(len(features), others + 1).index_put((image, word), guesses.new_ones(()))
    return F.binary_cross_entropy_with_logits(guesses, shown[:, :others], reduction="sum")
