"""What is minimised: the loss of the answers, and for a tower that starts from nothing a loss of its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.evaluation.teacher_forced import answer_logits, answered, encode
from himix_edge.model import VisionLanguageModel
from himix_edge.training.batches import IGNORED, Batch
from himix_edge.training.lora import without_adapters
from himix_edge.training.recipe import Recipe, Stage


class Objective(nn.Module):
    """A model and the head of its tower's own loss; called with a batch, so that DDP and FSDP can wrap it."""

    def __init__(self, model: VisionLanguageModel, recipe: Recipe):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.head: nn.Linear | None = None
        if any(stage.tower_loss for stage in recipe.stages):
            assert model.config.vision_hidden_size is not None
            self.head = nn.Linear(model.config.vision_hidden_size, model.config.decoder.vocab_size)

    def forward(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over the batch's target tokens, to be divided by their number in the whole step.

        Returns:
            the loss to minimise, the cross-entropy of the answers (of the tower's guesses if the decoder did not run),
            and for each row whether every target token is the most likely one: bool (R,).
        """
        device = batch.input_ids.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            with torch.set_grad_enabled(torch.is_grad_enabled() and "tower" in stage.learn):
                features = encode(self.model, batch)
            loss = answers = features.new_zeros((), dtype=torch.float32)
            right = torch.zeros(len(batch.input_ids), dtype=torch.bool, device=batch.input_ids.device)
            if stage.answer_loss:
                logits = answer_logits(self.model, batch, features)
                answers = F.cross_entropy(logits, batch.labels, ignore_index=IGNORED, reduction="sum")
                right = answered(logits.detach(), batch)
                loss = stage.answer_loss * answers
                loss = loss + stage.answer_loss * self._own_texts(batch.own_texts)
            if stage.tower_loss and self.head is not None and len(features):
                loss = loss + stage.tower_loss * tower_loss(features, self.head, batch)
        return loss, (answers if stage.answer_loss else loss).detach(), right

    def _own_texts(self, ids: Tensor) -> Tensor | float:
        """KL divergence of the next tokens' distributions in texts (O, L) from those before the adapters learned."""
        if not len(ids):
            return 0.0
        with torch.no_grad(), without_adapters(self.model):
            before = self.model.decode(ids)[0].log_softmax(-1)
        now = self.model.decode(ids)[0].log_softmax(-1)
        return F.kl_div(now.flatten(0, 1), before.flatten(0, 1), reduction="sum", log_target=True)


def tower_loss(features: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
    """Cross-entropy of predicting each answer token from its image's mean feature alone, by a linear `head` (d_v -> V).

    A tower that starts from random weights gets its first useful gradients this way: through a decoder that has not
    learned to look, they take many times longer. The head is not part of the model.

    Args:
        features: (I, N, d_v); batch: the rows about them; those without an image are left out.
    """
    pooled = F.layer_norm(features.float().mean(1), (features.shape[-1],))
    row, seeing = batch.row_of_target, len(batch.image_of_row)
    guesses = head(pooled)[batch.image_of_row[row.clamp(max=seeing - 1)]].float()
    labels = batch.labels.where(row < seeing, IGNORED)
    return F.cross_entropy(guesses, labels, ignore_index=IGNORED, reduction="sum")
