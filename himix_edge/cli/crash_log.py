"""Where an unexpected error is written down, for the person who mends it."""

import contextlib
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

KEPT = 20  # logs of earlier errors
MAX_CHARACTERS = 1 << 20


def write(error: BaseException) -> Path | None:
    """A new file with the traceback that only its owner can read; None where there is no place for one."""
    for folder in _folders():
        with contextlib.suppress(Exception):  # the error itself is what matters
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(".log", time.strftime("error-%Y%m%d-%H%M%S-"), folder)
            os.write(handle, _text(error).encode("utf-8", "backslashreplace"))
            os.close(handle)
            _forget_old(folder)
            return Path(name)
    return None


def _folders() -> Iterator[Path]:
    """Where a program's logs belong; else where temporary files do. Homes may be unset, or no path at all."""
    with contextlib.suppress(Exception):
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        base = state if state.is_absolute() else Path.home() / ".local" / "state"
        if base.is_absolute():
            yield base / "himix-edge"
    with contextlib.suppress(Exception):
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"himix-edge-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_dir() and not folder.is_symlink() and found.st_uid in (user, 0):
            yield folder


def _text(error: BaseException) -> str:
    facts = f"himix-edge {version('himix-edge')}, Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    if len(trace) > MAX_CHARACTERS:
        trace = f"{trace[: MAX_CHARACTERS // 2]}\n...\n{trace[-MAX_CHARACTERS // 2 :]}"
    return f"{facts}\n{sys.argv!r}\n\n{trace}"


def _forget_old(folder: Path) -> None:
    for old in sorted(folder.glob("error-*.log"))[:-KEPT]:
        old.unlink(missing_ok=True)
