"""An engine in a process of its own: what ends that process is an error here, and nothing more."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from himix_edge.errors import InputError
from himix_edge.runtimes.checked_engine import first_line
from himix_edge.runtimes.engine import Engine, Floats


class ApartEngine:
    """See `Engine`. To be used in a `with` block, which ends the process."""

    def __init__(self, what: str, make: Callable[..., Engine], *arguments: object):
        """`make(*arguments)` runs in the process; both are pickled. `what` it is, for errors.

        Raises:
            InputError: as `make`, or the process ended.
        """
        context = multiprocessing.get_context("spawn")
        self._what = what
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.capacity: int = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._call("encode", pixels)

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._call("inject", features)
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        return self._call("connect", features)

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        key, value = self._call("kept")
        return key, value

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._call("start", key, value, position)

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        return self._call("step", token_ids, embeddings)

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            self._pipe.send((name, arguments))
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            error, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is not None:
            raise InputError(f"{self._what}: {error}")
        return value

    def _ended(self) -> InputError:
        self._process.join(10)
        return InputError(f"{self._what}: its process ended with code {self._process.exitcode}")


def _serve(pipe: Connection, make: Callable[..., Engine], arguments: tuple[object, ...]) -> None:
    engine: Engine | None = None

    def answer(work: Callable[[], object]) -> None:
        try:
            pipe.send((None, work()))
        except Exception as error:  # whatever a runtime raises
            pipe.send((first_line(error), None))

    def begin() -> int:
        nonlocal engine
        engine = make(*arguments)
        return engine.capacity

    answer(begin)
    while engine is not None:
        try:
            name, given = pipe.recv()
        except EOFError:
            return  # nobody asks any more
        answer(partial(getattr(engine, name), *given))
