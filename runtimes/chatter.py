"""Libraries that tell more than anybody asked: on the process's standard error, or by logging."""

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from functools import cache


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Standard error of the whole process goes nowhere, whichever language writes to it."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


class _Silence:
    """How many threads want no logged warnings, and what was disabled before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = self.before = 0

    def add(self, count: int) -> None:
        with self.lock:
            if self.wanted == 0:
                self.before = logging.root.manager.disable
            self.wanted += count
            logging.disable(logging.WARNING if self.wanted else self.before)


_SILENCE = _Silence()


@contextlib.contextmanager
def without_logged_warnings() -> Iterator[None]:
    """Nothing is logged up to warnings, in the whole process, until the last thread within is out."""
    _SILENCE.add(1)
    try:
        yield
    finally:
        _SILENCE.add(-1)


@cache
def silent_at_the_end() -> None:
    """Nor do libraries write there when the process ends, behind everything that Python itself has to say."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
