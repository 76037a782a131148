"""What an engine makes of the gate's questions, and how far two such answers are apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himix_edge.runtimes.engine import Engine
from himix_edge.tiles import Tiles

Array = NDArray[np.float32]
Encode = Callable[[Path, NDArray[np.uint8]], Array]


@dataclass(frozen=True)
class Trace:
    """What one engine made of one question."""

    features: Array  # (n, N, d_v); n is 1 but for tiles
    key: Array  # (L, G, N, h)
    value: Array
    logits: Array  # (steps, V): after the prompt, then after each token of `tokens` but the last
    tokens: list[int]
    embeddings: Array | None = None  # (slots, d) where pictures stand in the text

    @property
    def margin(self) -> float:
        """The smallest gap between the two best logits on the way to the answer."""
        best = np.sort(self.logits, axis=1)
        return float((best[:, -1] - best[:, -2]).min())


@dataclass(frozen=True)
class Ahead:
    """A conversation up to the end of its picture, where that stands in the text: see `picture_ids`."""

    picture: Tiles
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """A real image (uint8 (1, S, S, 3), or its tiles) and prompt, and what the reference makes of them."""

    image: Path
    prompt: str
    pixels: NDArray[np.uint8]
    ids: list[int]
    ahead: Ahead | None
    reference: Trace


def encoder(engine: Engine) -> Encode:
    """An engine's features of images, each encoded once, however many questions there are about it."""
    seen: dict[Path, Array] = {}

    def encode(image: Path, pixels: NDArray[np.uint8]) -> Array:
        if image not in seen:
            seen[image] = np.concatenate([engine.encode(tile[None]) for tile in pixels])
        return seen[image]

    return encode


def pairs_of(expected: Trace, found: Trace) -> dict[str, tuple[Array, Array]]:
    """What two traces have by role. Keys and values are the injector's, or the decoder's that read the pictures."""
    tower, decoder = (expected.features, found.features), (expected.logits, found.logits)
    kept = {"key": (expected.key, found.key), "value": (expected.value, found.value)}
    if expected.embeddings is None or found.embeddings is None:
        injected = {f"vision_injector: {name}": pair for name, pair in kept.items()}
        return {"vision_encoder": tower, **injected, "decoder": decoder}
    connected = {"vision_injector": (expected.embeddings, found.embeddings)}
    read = {f"decoder: {name}": pair for name, pair in kept.items()}
    return {"vision_encoder": tower, **connected, **read, "decoder": decoder}


def noise_of(exact: Trace, rounded: Trace) -> dict[str, float]:
    """How far a trace with rounded activations is from the exact one, by role, as far as both say the same."""
    same = [a == b for a, b in zip(exact.tokens, rounded.tokens, strict=False)]
    steps = same.index(False) + 1 if False in same else len(same)
    pairs = pairs_of(exact, rounded) | {"decoder": (exact.logits[:steps], rounded.logits[:steps])}
    return {role: distance(*pair, rms=True) for role, pair in pairs.items()}


def distance(expected: Array, actual: Array, rms: bool = False) -> float:
    """Largest |expected - actual|, or its root mean square, over std(expected). Never NaN, which `max` would lose.

    Infinite if shapes differ, nothing is there to compare, or a value of either is not finite.
    """
    if expected.shape != actual.shape or not expected.size:
        return float("inf")
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf")
    difference = np.abs(expected.astype(np.float64) - actual)  # a float32's square may overflow
    size = np.sqrt(np.mean(difference**2)) if rms else difference.max()
    return float(size / max(expected.std(dtype=np.float64), 1e-12))
