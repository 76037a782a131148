"""What weights are calibrated on: real conversations about images, and text that a language model writes itself.

A model's own text needs no data and no licence, and is close to what it was trained on (Williams et al., arXiv
2410.17170). A model that was trained here on conversations gets those alone.
"""

import torch
from torch import Tensor

from himix_edge.checkpoints.source import Source
from himix_edge.data import Sample
from himix_edge.export.quantization.calibration import Passage
from himix_edge.model import KVCache, VisionLanguageModel
from himix_edge.preprocess import load_image
from himix_edge.text import Message, TextProcessor

WRITTEN = (64, 128)  # passages, tokens each; drawn at temperature 1: at 0.9 the calibrated model was worse


def writes_text(source: Source) -> bool:
    """Whether this is a language model that can write text: one that was not trained here from nothing."""
    return "recipe" not in source.provenance or bool(source.recorded("recipe").get("pretrained"))


def as_passages(written: Tensor | None) -> list[Passage]:
    """Texts (passages, tokens) without an image."""
    return [] if written is None else [Passage(row, [], 0) for row in written]


@torch.inference_mode()
def conversation_passages(model: VisionLanguageModel, text: TextProcessor, sample: Sample) -> list[Passage]:
    """A sample's conversations about its image, questions in the chat template and their answers."""
    config = model.config
    cache: KVCache | None = None
    if sample.image is not None and config.vision is not None:
        pixels = load_image(sample.image, config.vision.image_size, config.vision.resample)
        cache = model.inject(model.encode_image(torch.from_numpy(pixels.copy())))
    image: list[tuple[Tensor, Tensor] | None] = []
    if cache is not None:
        filled = zip(cache.key, cache.value, strict=True)
        image = [(key, value) if key.shape[2] else None for key, value in filled]
    found = []
    for turns in sample.conversations:
        ids = text.encode_chat([Message("user", turns[0].question)])
        ids += text.tokenizer.encode(turns[0].answer, add_special_tokens=False).ids
        found.append(Passage(torch.tensor(ids), image, cache.position if cache else 0))
    return found
