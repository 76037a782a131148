"""The paper's Figure 2: how much each decoder layer of a vanilla model changes its image tokens and its text tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import ModelConfig
from himix_edge.data import Sample
from himix_edge.errors import InputError
from himix_edge.model import VanillaModel, VisionLanguageModel
from himix_edge.preprocess import load_image
from himix_edge.text import Message, TextProcessor


@dataclass(frozen=True)
class Similarity:
    """Cosine similarity between the state entering a layer and the one leaving it: mean and deviation over tokens."""

    layer: int
    vision_mean: float
    vision_std: float
    text_mean: float
    text_std: float


@dataclass(frozen=True)
class Analysis:
    """What was measured, and over how much: text_tokens are those of all prompts together."""

    layers: tuple[Similarity, ...]
    images: int
    prompts: int
    text_tokens: int


def require_vision_sequence(config: ModelConfig) -> None:
    """Raises InputError for a model whose decoder no image tokens run through: HiMix, or a plain decoder."""
    if config.architecture != "vanilla" or config.vision is None:
        raise InputError(
            "only a vanilla model has a vision sequence in its decoder; train one with `himix train --vanilla` or make "
            "one with `himix convert --vanilla`"
        )
    config.refuse_pictures_in_text("himix analyze")


def layer_similarities(model: VanillaModel, features: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarities (L, N) of the image tokens and (L, M) of the text tokens, layer by layer.

    Args:
        model: a vanilla model.
        features: (1, N, d_v), what the tower made of an image.
        input_ids: (1, M).
    """
    pairs: list[Tensor] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        pairs.append(F.cosine_similarity(inputs[0], outputs[0], dim=-1)[0])

    hooks = [layer.register_forward_hook(record) for layer in model.model.layers]
    try:
        with torch.inference_mode():
            text = model.model.embed_tokens(input_ids)
            model.model.run(torch.cat([model.connector(features), text], dim=1), None)
    finally:
        for hook in hooks:
            hook.remove()
    stacked = torch.stack(pairs)
    return stacked[:, : features.shape[1]], stacked[:, features.shape[1] :]


def analyze(model: VisionLanguageModel, text: TextProcessor, samples: Iterable[Sample]) -> Analysis:
    """Similarities over real images and the first question of each conversation about them.

    Samples without an image are passed over.

    Raises:
        InputError: a model without a vision sequence (HiMix, or a plain decoder), or whose states are no numbers; no
            image among the samples.
    """
    config = model.config.vision
    require_vision_sequence(model.config)
    assert config is not None
    assert isinstance(model, VanillaModel)
    vision: list[Tensor] = []
    language: list[Tensor] = []
    images = 0
    for sample in samples:
        if sample.image is None:
            continue
        images += 1
        pixels = load_image(sample.image, config.image_size, config.resample)
        with torch.inference_mode():
            features = model.encode_image(torch.from_numpy(pixels.copy()))
        for turns in sample.conversations:
            ids = text.encode_chat([Message("user", turns[0].question)])
            image_part, text_part = layer_similarities(model, features, torch.tensor([ids]))
            vision.append(image_part)
            language.append(text_part)
    if not vision:
        raise InputError("no sample has an image")
    over_image, over_text = torch.cat(vision, dim=1), torch.cat(language, dim=1)
    if not (over_image.isfinite().all() and over_text.isfinite().all()):
        raise InputError("the model's states hold NaN or infinity: it is damaged")
    layers = tuple(
        Similarity(i, float(v.mean()), _deviation(v), float(t.mean()), _deviation(t))
        for i, (v, t) in enumerate(zip(over_image, over_text, strict=True))
    )
    return Analysis(layers, images, len(language), over_text.shape[1])


def _deviation(values: Tensor) -> float:
    """Of one value it is 0."""
    return float(values.std()) if values.numel() > 1 else 0.0
