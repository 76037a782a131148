"""What a runtime has to do: some calls on NumPy arrays. Sessions build everything else on it."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from himix_edge.errors import InputError

Floats = NDArray[np.float32]
Array = NDArray[np.generic]  # of any type of numbers


class Engine(Protocol):
    """A loaded model with one KV cache.

    Shapes: S image size, N vision tokens, d_v their width, I distinct keys and values of an image (one per layer,
    unless layers share or lack them: `ModelConfig.vision_rows`), G key/value heads, h head dim, V vocabulary.
    """

    capacity: int  # cache slots, vision and text together

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """uint8 (1, S, S, 3) -> vision features (1, N, d_v)."""
        ...

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        """Vision features (1, N, d_v) -> vision key and value (I, G, N, h)."""
        ...

    def start(self, key: Floats, value: Floats, position: int) -> None:
        """Empty the cache and fill its first slots with vision key and value (I, G, n, h), n >= 0.

        `position` is the rotary position of the first text token.
        """
        ...

    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        """Append tokens (T,) to the cache -> logits (V,) of the last one. Never called beyond `capacity`."""
        ...


@runtime_checkable
class PictureEngine(Engine, Protocol):
    """An engine whose decoder takes embeddings in place of tokens. More shapes: T ids, M tokens of a tile, d wide."""

    def connect(self, features: Floats) -> Floats:
        """A tile's features (1, N, d_v) -> embeddings (1, M, d)."""
        ...

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        """As `Engine.step`; an id (T,) that is SLOT stands for its row of `embeddings` (T, d)."""
        ...

    def kept(self) -> tuple[Floats, Floats]:
        """Copies of the cache's filled slots: key and value (L, G, n, h)."""
        ...


@runtime_checkable
class ForkableEngine(Engine, Protocol):
    """An engine whose weights others may use at the same time."""

    def fork(self) -> Engine:
        """An engine on the same weights with a cache of its own; both may be called at the same time."""
        ...


Factors = Mapping[str, Mapping[str, Floats]]  # an adapter: role -> its graph's input -> A (in, r) or B (r, out)


@runtime_checkable
class AdaptableEngine(Engine, Protocol):
    """An engine whose graphs take an adapter; `load` is given one that changes nothing, and so it is told of it."""

    def use_adapter(self, factors: Factors) -> None:
        """Another one for all calls that follow; all of its tensors have one rank. Nothing is loaded again."""
        ...


def as_adaptable(engine: Engine) -> AdaptableEngine:
    """Raises InputError for a runtime that takes no adapters."""
    if not isinstance(engine, AdaptableEngine):
        raise InputError("this runtime takes no adapters; merge one at the export: himix export --adapter")
    return engine


class CannotFork(InputError):
    """The runtime has no second cache for the same weights."""


class ClosedEngine:
    """What a session has for an engine when it is closed: every call raises InputError."""

    def __init__(self, capacity: int):
        self.capacity = capacity

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        raise self._closed()

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        raise self._closed()

    def start(self, key: Floats, value: Floats, position: int) -> None:
        raise self._closed()

    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        raise self._closed()

    def fork(self) -> Engine:
        raise self._closed()

    def use_adapter(self, factors: Factors) -> None:
        raise self._closed()

    def _closed(self) -> InputError:
        return InputError("this session is closed; open the model again")


def forked(engine: Engine) -> Engine:
    """See `ForkableEngine.fork`. Raises CannotFork for a runtime that cannot."""
    if not isinstance(engine, ForkableEngine):
        raise CannotFork("this runtime keeps one cache for its weights; open the model again for another session")
    return engine.fork()


def given_or_zeros(embeddings: Floats | None, tokens: int, hidden: int) -> Floats:
    """A graph's `vision_embeds` (1, T, d): what is given (T, d), or zeros, which no id takes."""
    return np.zeros((1, tokens, hidden), np.float32) if embeddings is None else np.ascontiguousarray(embeddings[None])


def as_picture_engine(engine: Engine) -> PictureEngine:
    """Raises InputError for a runtime that takes no pictures in the text."""
    if not isinstance(engine, PictureEngine):
        raise InputError("this runtime does not take a model whose pictures stand in the text; open its checkpoint")
    return engine
