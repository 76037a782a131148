"""PyTorch: runs a checkpoint, and is the reference that every exported bundle is compared with."""

import numpy as np
import torch
from numpy.typing import NDArray

from himix_edge.model import KVCache, VanillaModel, VisionLanguageModel
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
        rows = self.model.project_image(torch.from_numpy(features))
        return torch.cat([key for key, _ in rows]).numpy(), torch.cat([value for _, value in rows]).numpy()

    @torch.inference_mode()
    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        assert isinstance(self.model, VanillaModel)
        return self.model.connect(torch.from_numpy(features)).numpy()

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return torch.cat(self._cache.key).numpy(), torch.cat(self._cache.value).numpy()

    def fork(self) -> "PytorchEngine":
        """See `ForkableEngine`."""
        return PytorchEngine(self.model, self.capacity)

    def start(self, key: Floats, value: Floats, position: int) -> None:
        rows = [(torch.from_numpy(k)[None], torch.from_numpy(v)[None]) for k, v in zip(key, value, strict=True)]
        self._cache = self.model.start(rows) if rows else KVCache([], [])
        self._cache.position = position

    @torch.inference_mode()
    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        ids = torch.from_numpy(token_ids)[None]
        if embeddings is None:
            logits, self._cache = self.model.decode(ids, self._cache)
        else:
            assert isinstance(self.model, VanillaModel)
            logits, self._cache = self.model.read(ids, torch.from_numpy(embeddings)[None], self._cache)
        return logits[0, -1].numpy()
