"""LiteRT: the decoder's cache is an input and an output, which are the same memory here, so that a step copies none.

The decoder has graphs for some tokens of a prompt (padded) and one for a token, each for caches of several sizes: a
step takes the smallest that holds what there is, so that a short chat does not pay for a long one's attention.
"""

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.litert.model import Buffers, Ports, open_model, read

STEPS = (64, 16, 1)  # tokens that the decoder's graphs take
FEW, SINGLE = 48, 4  # tokens up to which several smaller steps cost less than one of 64, and one of 16
SMALLEST = 256  # slots of the smallest cache; each other is twice the one before, and the last half as large again
MULTIPLE = 16  # the largest's slots are a multiple of it
KINDS = ("key", "value")


def cache_sizes(capacity: int) -> list[int]:
    """Slots of the caches that a decoder of this capacity has graphs for, from the smallest to the largest.

    The largest has room for a prompt's padding behind the last slot.
    """
    most = -(-(capacity + STEPS[0]) // MULTIPLE) * MULTIPLE
    doubled = (SMALLEST << i for i in range(most.bit_length()))
    return [*itertools.takewhile(lambda size: size * 3 // 2 <= most, doubled), most]


def cache_names(kind: str, layers: int) -> list[str]:
    """Names of the decoder's inputs `past`, or outputs `present`: every layer's key and value."""
    return [f"{kind}.{layer}.{part}" for layer, part in itertools.product(range(layers), KINDS)]


def graph_name(tokens: int, size: int) -> str:
    """Of the decoder's graph for so many tokens and slots."""
    return f"prefill_{tokens}_{size}" if tokens > 1 else f"decode_{size}"


class LiteRtEngine:
    """See `Engine`."""

    def __init__(self, files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None):
        self.capacity, self._rows = capacity, config.vision_rows
        vision, decoder = config.vision, config.decoder
        assert vision is not None
        layers, heads, head_dim = decoder.num_hidden_layers, decoder.num_key_value_heads, decoder.head_dim
        features = (1, vision.num_tokens, vision.feature_size)
        kept = (config.num_vision_rows, heads, config.tile_tokens, head_dim)
        self._embeds = config.images is not None
        if self._embeds:
            gives: Ports = {"vision_embeds": ("float32", (1, config.tile_tokens, decoder.hidden_size))}
        else:
            gives = dict.fromkeys((f"vision_{kind}" for kind in KINDS), ("float32", kept))
        self._encoder, self._injector, self._decoder = (
            open_model(files, role, config, threads) for role in ("vision_encoder", "vision_injector", "decoder")
        )
        pixels: Ports = {"image": ("uint8", (1, vision.image_size, vision.image_size, 3))}
        self._encoder.check("vision_encoder", pixels, {"vision_features": ("float32", features)})
        self._injector.check("vision_injector", {"vision_features": ("float32", features)}, gives)
        self._sizes = cache_sizes(capacity)
        for size, tokens in itertools.product(self._sizes, STEPS):
            takes: Ports = {"input_ids": ("int32", (1, tokens))}
            takes |= dict.fromkeys(("filled", "position", *(["last"] if tokens > 1 else [])), ("int32", (1,)))
            if self._embeds:
                takes["vision_embeds"] = ("float32", (1, tokens, decoder.hidden_size))
            cache = ("float32", (1, heads, size, head_dim))
            takes |= dict.fromkeys(cache_names("past", layers), cache)
            made: Ports = dict.fromkeys(cache_names("present", layers), cache)
            self._decoder.check(
                graph_name(tokens, size), takes, made | {"logits": ("float32", (1, decoder.vocab_size))}
            )
        self._layers, self._shape, self._logits = layers, (heads, head_dim), (1, decoder.vocab_size)
        self._memory: dict[str, tuple[Buffers, Buffers]] = {}
        self._used = self._position = 0
        self._size = self._sizes[0]

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._encoder.call({"image": pixels})["vision_features"]

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        made = self._injector.call({"vision_features": features})
        return made["vision_key"], made["vision_value"]

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        return self._injector.call({"vision_features": features})["vision_embeds"]

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        key, value = self._stored()[:, :, :, : self._used].swapaxes(0, 1).copy()
        return key, value

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        self._size = self._fitting(self._used + STEPS[0])
        if not self._used:
            return
        nothing = np.zeros((2, *key.shape[1:]), np.float32)
        rows = [nothing if row is None else np.stack([key[row], value[row]]) for row in self._rows]
        self._store(np.stack(rows))

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        first, left = 0, len(token_ids)
        while left:
            tokens = STEPS[0] if left > FEW else STEPS[1] if left > SINGLE else 1
            part = slice(first, first + min(tokens, left))
            logits = self._append(tokens, token_ids[part], None if embeddings is None else embeddings[part])
            first, left = part.stop, len(token_ids) - part.stop
        return logits

    def _append(self, tokens: int, token_ids: NDArray[np.int64], embeddings: Floats | None) -> Floats:
        count = len(token_ids)
        self._grow(self._fitting(self._used + tokens))
        graph = graph_name(tokens, self._size)
        inputs, outputs = self._buffers(graph)
        ids = np.zeros((1, tokens), np.int32)
        ids[0, :count] = token_ids
        numbers = {"filled": self._used, "position": self._position, "last": count - 1}
        given: dict[str, Array] = {name: np.array([n], np.int32) for name, n in numbers.items() if name in inputs}
        given["input_ids"] = ids
        if self._embeds and embeddings is not None:
            given["vision_embeds"] = rows = np.zeros((1, tokens, embeddings.shape[1]), np.float32)
            rows[0, :count] = embeddings
        for name, array in given.items():
            inputs[name].write(array)
        self._decoder.run(graph, inputs, outputs)
        self._used += count
        self._position += count
        return read(outputs["logits"], self._logits)[0]

    def _fitting(self, slots: int) -> int:
        return next(size for size in self._sizes if size >= slots)

    def _grow(self, size: int) -> None:
        if size > self._size:
            stored = self._stored()
            self._size = size
            self._store(stored)

    def _stored(self) -> Floats:
        """The cache (L, 2, G, C, h), copied."""
        cache = self._buffers(graph_name(1, self._size))[0]
        shape = (self._shape[0], self._size, self._shape[1])
        arrays = [read(cache[name], shape) for name in cache_names("past", self._layers)]
        return np.stack(arrays).reshape(self._layers, 2, *shape)

    def _store(self, slots: Floats) -> None:
        """Put (L, 2, G, n, h) into the first slots."""
        cache = self._buffers(graph_name(1, self._size))[0]
        whole = np.zeros((self._shape[0], self._size, self._shape[1]), np.float32)
        for name, each in zip(cache_names("past", self._layers), slots.reshape(-1, *slots.shape[2:]), strict=True):
            whole[:, : slots.shape[3]] = each
            cache[name].write(whole)

    def _buffers(self, graph: str) -> tuple[Buffers, Buffers]:
        """A graph's memory. Graphs for caches of one size have the same, which goes in and comes out."""
        if graph not in self._memory:
            inputs, outputs = self._decoder.buffers(graph)
            names, sized = cache_names("past", self._layers), f"_{self._size}"
            cache = next((taken for name, (taken, _) in self._memory.items() if name.endswith(sized)), None)
            if cache is None:
                cache = inputs
                nothing = np.zeros((self._shape[0], self._size, self._shape[1]), np.float32)
                for name in names:  # no slot is seen before it is filled, but zero times what is no number is none
                    cache[name].write(nothing)
            for past, present in zip(names, cache_names("present", self._layers), strict=True):
                inputs[past] = outputs[present] = cache[past]
            self._memory[graph] = inputs, outputs
        return self._memory[graph]


def load(
    files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
) -> LiteRtEngine:
    """Open the three files. Raises InputError for a file that LiteRT refuses, or that is not the manifest's model.

    `activations` follow from the weights: quantized ones are multiplied with int8 ones.
    """
    return LiteRtEngine(files, config, capacity, threads)
