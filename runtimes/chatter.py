"""Libraries that write notes straight to the process's standard error."""

import atexit
import contextlib
import os
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


@cache
def silent_at_the_end() -> None:
    """Nor do libraries write there when the process ends, behind everything that Python itself has to say."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
