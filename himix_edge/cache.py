"""Where what was fetched is kept."""

import contextlib
import os
import sys
from pathlib import Path

from himix_edge.errors import InputError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/himix-edge, or ~/.cache/himix-edge. Raises InputError for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "himix-edge"
    try:
        home = Path.home()
    except (RuntimeError, KeyError):
        raise InputError("no home folder to keep what is fetched in; set XDG_CACHE_HOME to a folder for it") from None
    return home.absolute() / ".cache" / "himix-edge"


def say(line: str) -> None:
    """A line about a fetch on standard error, terminal or not."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens
        print(line, file=sys.stderr, flush=True)
