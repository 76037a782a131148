"""Which layers of a decoder need the image: measured, and chosen.

A layer is without the image where no text sees the image's keys and values there, as in a HiMix model that is injected
into the other layers. What that costs is the loss of the data's answers; layers stand in for each other, so they are
left out one after the other, those first whose loss is least.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import ModelConfig, VisionConfig
from himix_edge.data import Sample
from himix_edge.distillation.rows import placed, teacher_rows
from himix_edge.errors import InputError
from himix_edge.model import KVCache, VanillaModel, VisionLanguageModel
from himix_edge.model.decoder import rotate
from himix_edge.text import TextProcessor
from himix_edge.training.batch import Batch
from himix_edge.training.pixels import Load
from himix_edge.training.teacher_forced import encode, logits_behind, question_batches

IMAGES_PER_BATCH = 32
LEFT_OUT = 5  # of so many layers that are left, one goes at a time, and of more in proportion
ENOUGH = 0.02  # `auto`: of what the image is worth, at most so much is lost

Watch = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class LayerUse:
    """What a layer does with the image.

    Attributes:
        layer: of the decoder.
        attention: share of the attention that goes to the image, mean over heads and the tokens that answer.
        loss_without: of the answers, in nats a token, if this layer alone is without the image.
        needed: how many layers are needed more; a choice of K layers are those for which it is below K.
        loss_then: with those that are needed more, and without this one.
    """

    layer: int
    attention: float
    loss_without: float
    needed: int
    loss_then: float


@dataclass(frozen=True)
class ImageUse:
    """Losses in nats an answer's token: with the image in all layers, and in none; and what each layer does."""

    loss: float
    blind: float
    layers: tuple[LayerUse, ...]

    def choice(self, count: int | None) -> tuple[int, ...]:
        """The layers to inject: so many, or as few as lose at most ENOUGH of what the image is worth.

        Raises:
            InputError: no layer, or more than there are.
        """
        if count is None:
            most = self.loss + ENOUGH * max(0.0, self.blind - self.loss)
            fitting = [use.needed for use in self.layers if use.needed and use.loss_then <= most]
            count = min(fitting, default=len(self.layers))
        if not 1 <= count <= len(self.layers):
            raise InputError(f"{count} layers to choose, of {len(self.layers)} that see the image")
        return tuple(use.layer for use in self.layers if use.needed < count)


def require_image_in_cache(config: ModelConfig, what: str = "himix analyze --layers") -> VisionConfig:
    """The tower's configuration, as a picture in front of the text is seen.

    Raises InputError, saying `what` does not take it, for a model without images or whose pictures are several tiles.
    """
    vision = config.picture_in_front(what).vision
    if vision is None:
        raise InputError("a model without a vision tower sees no image in any layer")
    return vision


@torch.inference_mode()
def image_use(
    model: VisionLanguageModel,
    text: TextProcessor,
    samples: Sequence[Sample],
    load: Load,
    watch: Watch,
    before: Sequence[int] = (),
) -> ImageUse:
    """Measure the layers of a model that sees images.

    Args:
        model: vanilla or HiMix. Of one whose picture is one tile in its text, a HiMix model's text follows the picture.
        text: the model's tokenizer and template.
        samples: conversations; those without an image are passed over.
        load: image -> pixels uint8 (1, S, S, 3).
        watch: hands on the numbers of layers that are left, for a progress bar.
        before: ids of the words that stand in front of such a picture.

    Raises:
        InputError: see `require_image_in_cache`; no sample has an image.
    """
    require_image_in_cache(model.config)
    seen = [sample for sample in samples if sample.image is not None]
    if not seen:
        raise InputError("no sample has an image")

    def inject(features: Tensor) -> KVCache:
        if not isinstance(model, VanillaModel) or model.config.images is None:
            return model.inject(features)
        return placed(model, teacher_rows(model, model.connect(features), before), "sequence")

    batches = [(batch, inject(encode(model, batch))) for _, batch in
               question_batches(seen, text, load, images_per_batch=IMAGES_PER_BATCH)]  # fmt: skip
    layers = model.config.injected_layers

    def loss_with(kept: list[int]) -> float:
        losses = [_losses(model, batch, _only(images, kept)) for batch, images in batches]
        return float(torch.cat(losses).mean())

    attention = _attention(model, batches)
    left, single, gone = list(layers), [0.0] * len(layers), {}
    for turn in watch(rounds(len(layers))):
        without = {layer: loss_with([other for other in left if other != layer]) for layer in left}
        if turn == 0:
            single = list(without.values())
        for layer in sorted(left, key=without.__getitem__)[: _at_once(len(left))]:
            left.remove(layer)
            gone[layer] = len(left), loss_with(left)
    uses = [LayerUse(layer, share, alone, *gone[layer])
            for layer, share, alone in zip(layers, attention, single, strict=True)]  # fmt: skip
    return ImageUse(loss_with([*layers]), loss_with([]), tuple(uses))


def rounds(layers: int) -> range:
    """The numbers of the rounds in which so many layers are left out."""
    count = 0
    while layers:
        layers -= _at_once(layers)
        count += 1
    return range(count)


def _at_once(layers: int) -> int:
    return max(1, layers // LEFT_OUT)


def _only(images: KVCache, layers: list[int]) -> KVCache:
    """The images, seen by these layers alone."""
    keys, values = (
        [rows if layer in layers else rows[:, :, :0] for layer, rows in enumerate(kind)]
        for kind in (images.key, images.value)
    )
    return KVCache(keys, values, images.position)


def _losses(model: VisionLanguageModel, batch: Batch, images: KVCache) -> Tensor:
    """Of each token of the answers, in nats."""
    return F.cross_entropy(logits_behind(model, batch, images), batch.labels, reduction="none")


def _attention(model: VisionLanguageModel, batches: list[tuple[Batch, KVCache]]) -> list[float]:
    """Of each layer with the image: the share of its attention that goes there."""
    layers = model.config.injected_layers
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    shares: dict[int, list[Tensor]] = {}

    def record(layer: int, inputs: tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], Tensor]) -> None:
        x, cos, sin, (past, _), mask = inputs
        attention = model.model.layers[layer].self_attn
        query, key, _ = attention.project(x)
        key = torch.cat([past, rotate(key, cos, sin)], 2).repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = rotate(query, cos, sin) @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        shares[layer].append(weights[..., : past.shape[2]].sum(-1).mean(1))  # (B, T)

    def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: record(layer, inputs)  # type: ignore[arg-type]

    hooks = [model.model.layers[layer].self_attn.register_forward_pre_hook(hook(layer)) for layer in layers]
    try:
        for batch, images in batches:
            shares |= {layer: [] for layer in layers}
            logits_behind(model, batch, images)
            longest = batch.input_ids.shape[1]
            for layer in layers:
                rows = torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in shares[layer]])
                found[layer].append(rows.flatten()[batch.positions])
    finally:
        for handle in hooks:
            handle.remove()
    return [float(torch.cat(parts).mean()) for parts in found.values()]
