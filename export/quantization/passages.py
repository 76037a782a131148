"""What weights are calibrated on: real conversations about images, and text that a language model writes itself.

A model's own text needs no data and no licence, and is close to what it was trained on (Williams et al., arXiv
2410.17170). A model that was trained here on conversations gets those alone.
"""

import numpy as np
import torch
from torch import Tensor

from himix_edge.checkpoints.source import Source
from himix_edge.config.images import SLOT
from himix_edge.data import Sample
from himix_edge.export.quantization.calibration import Passage
from himix_edge.model import KVCache, VanillaModel, VisionLanguageModel
from himix_edge.preprocess import ImageSource, load_image
from himix_edge.runtimes.pictures import connect_pictures, picture_ids
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.text import Message, TextProcessor
from himix_edge.tiles import load_tiles

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
    if sample.image is not None and isinstance(model, VanillaModel) and config.images is not None:
        return _behind_pictures(model, text, sample, sample.image)
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


def _behind_pictures(model: VanillaModel, text: TextProcessor, sample: Sample, image: ImageSource) -> list[Passage]:
    """The same where the picture stands in the text: the first passage reads it too, the others its keys and values."""
    config = model.config
    assert config.vision is not None
    assert config.images is not None
    picture = load_tiles(image, config.vision.image_size, config.images)
    engine = PytorchEngine(model, config.decoder.max_position_embeddings)
    ahead = torch.from_numpy(picture_ids(text, config, [picture], None, engine.capacity))
    features = np.concatenate([engine.encode(tile[None]) for tile in picture.pixels])
    rows = torch.zeros(len(ahead), config.decoder.hidden_size)
    rows[ahead == SLOT] = torch.from_numpy(connect_pictures(engine, config.images, [picture], features))
    _, cache = model.read(ahead[None], rows[None])
    kept: list[tuple[Tensor, Tensor] | None] = list(zip(cache.key, cache.value, strict=True))
    found: list[Passage] = []
    for turns in sample.conversations:
        ids = text.encode_behind_pictures(turns[0].question)
        ids += text.tokenizer.encode(turns[0].answer, add_special_tokens=False).ids
        said = torch.tensor(ids)
        if found:
            found.append(Passage(said, kept, cache.position))
        else:
            nothing = torch.zeros(len(ids), rows.shape[1])
            found.append(Passage(torch.cat([ahead, said]), [], 0, torch.cat([rows, nothing])))
    return found
