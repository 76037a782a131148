"""Paths that a bundle's files name: relative, inside of the bundle, and the same file on every system."""

import re
from collections.abc import Iterable

from himix_edge.errors import InputError

MAX_PATH = 240  # with a folder in front of it still short enough for Windows
PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)  # no letter that has two spellings, nothing that a shell reads
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def check_paths(paths: Iterable[str], where: str) -> None:
    """Check paths with forward slashes. One may stand there several times.

    Raises:
        InputError: naming `where` and a path that leaves the folder, that some system reads otherwise, or two that are
            one file where upper and lower case are equal.
    """
    spellings: dict[str, str] = {}
    for path in paths:
        check_path(path, where)
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            spelled = "/".join(parts[:end])
            other = spellings.setdefault(spelled.lower(), spelled)
            if other != spelled:
                raise InputError(f"{where}: {other!r} and {spelled!r} are one file on some systems; refused")


def check_path(path: str, where: str) -> None:
    """Raises InputError as `check_paths` does for one path."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or any(c in path for c in "\\:\0"):
        raise InputError(f"{where}: path {path!r:.100} leaves the bundle; refused")
    if len(path) > MAX_PATH:
        raise InputError(f"{where}: path {path[:60]!r}... is longer than {MAX_PATH} characters; refused")
    for part in parts:
        if not PART.fullmatch(part) or part.endswith(".") or part.split(".")[0].lower() in WINDOWS_DEVICES:
            raise InputError(f"{where}: path {path!r}: {part!r} is no plain file name; refused")
