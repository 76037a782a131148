"""A command as a process of its own: its time and peak memory, as the operating system counts them."""

import os
import subprocess
import sys
import time
from pathlib import Path


def measured(command: list[str], log: Path | None = None) -> tuple[float, float]:
    """Seconds and peak bytes.

    Args:
        command: what to run.
        log: gets what it prints.

    Raises:
        SystemExit: it failed.
    """
    began = time.monotonic()
    with (log or Path(os.devnull)).open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if log else None)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def himix(*arguments: str) -> list[str]:
    """The command line of ours, in this environment."""
    return [sys.executable, "-m", "himix_edge", *arguments]
