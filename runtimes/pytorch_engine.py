"""PyTorch: runs a checkpoint, and is the reference that every exported bundle is compared with."""

import numpy as np
import torch
from numpy.typing import NDArray

from himix_edge.model import KVCache, VisionLanguageModel
from himix_edge.runtimes.engine import Floats


class PytorchEngine:
    """See `Engine`; float32, concatenating cache."""

    def __init__(self, model: VisionLanguageModel, capacity: int):
        self.model = model
        self.capacity = capacity
        self._cache = KVCache([], [])

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self.model.encode_image(torch.from_numpy(pixels.copy())).numpy()

    @torch.inference_mode()
    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        cache = self.model.inject(torch.from_numpy(features))
        return torch.cat(cache.key).numpy(), torch.cat(cache.value).numpy()

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._cache = KVCache(
            [torch.from_numpy(layer)[None] for layer in key],
            [torch.from_numpy(layer)[None] for layer in value],
            position,
        )

    @torch.inference_mode()
    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        logits, self._cache = self.model.decode(torch.from_numpy(token_ids)[None], self._cache)
        return logits[0, -1].numpy()
