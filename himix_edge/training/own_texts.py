"""Texts that a run's model writes before it learns: what `Recipe.own_texts` holds it to."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from himix_edge.files import staged_file
from himix_edge.model import VisionLanguageModel
from himix_edge.model.sampled_text import sample_texts

TOKENS, BATCH = 192, 128


def own_texts(path: Path, model: VisionLanguageModel, count: int) -> Tensor:
    """int64 (count, TOKENS), written by `model` once and kept at `path`."""
    if not path.is_file():
        texts = [sample_texts(model, BATCH, TOKENS, seed).cpu() for seed in range(-(-count // BATCH))]
        with staged_file(path) as staged:
            save_file({"ids": torch.cat(texts)[:count]}, staged)
    return load_file(path)["ids"]
