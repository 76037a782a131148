"""An engine on a bundle's files, which are not trusted: a runtime gives a result for them, or one line of error."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import HimixError, InputError
from himix_edge.held_files import HeldFiles

Floats = NDArray[np.float32]


class CheckedEngine:
    """See `Engine`. Raises InputError for files that changed since they were opened, and for a graph that fails or
    gives other shapes than the manifest's model has."""

    def __init__(self, engine: Any, where: Path, config: ModelConfig, held: HeldFiles):
        self._engine, self._where, self._config, self._held = engine, where, config, held
        self.capacity: int = engine.capacity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)  # what one runtime tells of itself

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        vision = self._config.vision
        assert vision is not None
        with self._watched("vision_encoder"):
            features = self._engine.encode(pixels)
        return self._expected("vision features", features, (1, vision.num_tokens, vision.feature_size))

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        decoder = self._config.decoder
        shape = (self._config.num_vision_rows, decoder.num_key_value_heads, features.shape[1], decoder.head_dim)
        with self._watched("vision_injector"):
            key, value = self._engine.inject(features)
        return self._expected("vision key", key, shape), self._expected("vision value", value, shape)

    def start(self, key: Floats, value: Floats, position: int) -> None:
        with self._watched("decoder"):
            self._engine.start(key, value, position)

    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        with self._watched("decoder"):
            logits = self._engine.step(token_ids)
        return self._expected("logits", logits, (self._config.decoder.vocab_size,))

    def _expected(self, name: str, found: Any, shape: Sequence[int]) -> Floats:
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != tuple(shape):
            said = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise InputError(f"{self._where}: {name} are {said}, the manifest's model has float32 {tuple(shape)}")
        return found

    @contextlib.contextmanager
    def _watched(self, role: str) -> Iterator[None]:
        self._held.check()
        with runtime_errors(f"{self._where}: its {role} cannot be run"):
            yield


@contextlib.contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Raises InputError, with a runtime's first line, for whatever it raises: their errors share no base class."""
    try:
        yield
    except HimixError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line of printable characters: it may quote a file's bytes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = "".join(c if c.isprintable() else "?" for c in lines[0])
    return text if len(text) <= 300 else f"{text[:300]}..."
