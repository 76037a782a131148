"""An engine on a bundle's files, which are not trusted: a runtime gives a result for them, or one line of error."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import HimixError, InputError
from himix_edge.held_files import HeldFiles
from himix_edge.runtimes.engine import Engine, Factors, Floats, as_adaptable, as_picture_engine, forked

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

LOOK_AGAIN = 0.002  # seconds; a small model says several tokens in it, and looking at its files takes a tenth of one


class CheckedEngine:
    """See `Engine`. Raises InputError for files that changed since they were opened, and for a graph that fails or
    gives other shapes than the manifest's model has."""

    def __init__(self, engine: Engine, where: Path, config: ModelConfig, held: HeldFiles):
        self._engine, self._where, self._config, self._held = engine, where, config, held
        self.capacity: int = engine.capacity
        self._looked = 0.0  # when the files were last seen to be as they were

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)  # what one runtime tells of itself

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        vision = self._config.vision
        assert vision is not None
        features = self._call("vision_encoder", self._engine.encode, pixels)
        return self._expected("vision features", features, (1, vision.num_tokens, vision.feature_size))

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        decoder = self._config.decoder
        rows, slots = self._config.num_vision_rows, self._config.tile_tokens
        shape = (rows, decoder.num_key_value_heads, slots, decoder.head_dim)
        key, value = self._call("vision_injector", self._engine.inject, features)
        return self._expected("vision key", key, shape), self._expected("vision value", value, shape)

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        config = self._config
        embeddings = self._call("vision_injector", as_picture_engine(self._engine).connect, features)
        return self._expected("embeddings", embeddings, (1, config.tile_tokens, config.decoder.hidden_size))

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return self._call("decoder", as_picture_engine(self._engine).kept)

    def use_adapter(self, factors: Factors) -> None:
        """See `AdaptableEngine`."""
        self._call("decoder", as_adaptable(self._engine).use_adapter, factors)

    def fork(self) -> "CheckedEngine":
        """See `ForkableEngine`."""
        return CheckedEngine(forked(self._engine), self._where, self._config, self._held)

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._call("decoder", self._engine.start, key, value, position)

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        if embeddings is None:
            logits = self._call("decoder", self._engine.step, token_ids)
        else:
            logits = self._call("decoder", as_picture_engine(self._engine).step, token_ids, embeddings)
        return self._expected("logits", logits, (self._config.decoder.vocab_size,))

    def _expected(self, name: str, found: object, shape: Sequence[int]) -> Floats:
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != tuple(shape):
            said = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise InputError(f"{self._where}: {name} are {said}, the manifest's model has float32 {tuple(shape)}")
        return found

    def _call(self, role: str, function: Callable[[*Given], Made], *arguments: *Given) -> Made:
        now = time.monotonic()
        if now - self._looked > LOOK_AGAIN:
            self._held.check()
            self._looked = now
        try:  # as runtime_errors, whose context would take a twentieth of a small token
            return function(*arguments)
        except HimixError:
            raise
        except Exception as error:
            raise InputError(f"{self._where}: its {role} cannot be run: {first_line(error)}") from error


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
