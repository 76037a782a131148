"""ONNX Runtime on a portable export: every step's cache goes in and comes out grown."""

import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Array, Floats, given_or_zeros
from himix_edge.runtimes.onnx.engine import CPU, open_role


class OnnxPortableEngine:
    """See `Engine`."""

    def __init__(
        self,
        files: dict[str, Path],
        config: ModelConfig,
        capacity: int,
        threads: int | None,
        activations: str,
        device: str = CPU,
    ):
        self.capacity, self._rows, self._decoder_config = capacity, config.vision_rows, config.decoder
        # level 1 leaves dequantised weights as they are; above it ONNX Runtime multiplies with int8 activations
        level = 1 if activations == "float" else None
        self._encoder, self._injector, self._decoder = (
            open_role(files, role, config, threads, level, device)
            for role in ("vision_encoder", "vision_injector", "decoder")
        )
        self._names = [i.name for i in self._decoder.get_inputs() if i.name.startswith("past_key_values")]
        layers = range(config.decoder.num_hidden_layers)
        if self._names != [f"past_key_values.{layer}.{kind}" for layer in layers for kind in ("key", "value")]:
            raise InputError(f"{files['decoder']}: its cache's inputs are not those of the manifest's model")
        self._embeds = config.images is not None
        self._cache: list[Array] = []
        self._position = 0

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        features: Floats = self._encoder.run(None, {"image": pixels})[0]
        return features

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._injector.run(None, {"vision_features": features})
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        embeddings: Floats = self._injector.run(None, {"vision_features": features})[0]
        return embeddings

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return np.concatenate(self._cache[::2]), np.concatenate(self._cache[1::2])

    def fork(self) -> "OnnxPortableEngine":
        """See `ForkableEngine`: ONNX Runtime's sessions may run several times at once."""
        other = copy.copy(self)
        other._cache = []
        return other

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._position = position
        nothing = np.zeros((1, self._decoder_config.num_key_value_heads, 0, self._decoder_config.head_dim), np.float32)
        self._cache = []
        for row in self._rows:
            empty = row is None or not key.shape[2]
            self._cache += [nothing if empty else np.ascontiguousarray(tensor[row][None]) for tensor in (key, value)]

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        count = len(token_ids)
        positions = np.arange(self._position, self._position + count, dtype=np.int64)[None]
        self._position += count
        inputs: dict[str, Array] = {"input_ids": token_ids[None], "position_ids": positions}
        if self._embeds:
            inputs["vision_embeds"] = given_or_zeros(embeddings, count, self._decoder_config.hidden_size)
        logits, *self._cache = self._decoder.run(None, inputs | dict(zip(self._names, self._cache, strict=True)))
        last: Floats = logits[0]
        return last


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    device: str = CPU,
) -> OnnxPortableEngine:
    """Open the three graphs. Raises InputError if ONNX Runtime refuses a file, or has not got the device."""
    return OnnxPortableEngine(files, config, capacity, threads, activations, device)
