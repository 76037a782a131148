"""Running commands on a device and sending bytes to it: what `ssh` and `adb shell` have in common."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from himix_edge.errors import InputError

STALLED_S = 30.0
BLOCK_BYTES = 256 << 10
PACKAGES = {"ssh": "openssh-client"}  # Debian's, where they are called otherwise than the command


class LinkLost(InputError):
    """The connection broke; trying again may help."""


@dataclass(frozen=True)
class Result:
    """A remote command's end: exit code, standard output and error."""

    code: int
    output: str
    errors: str


class Link(Protocol):
    """A way to a POSIX shell somewhere else."""

    name: str  # for messages

    def run(self, command: str, timeout: float = 60) -> Result:
        """Run a shell command there. Raises LinkLost, or InputError if the device cannot be reached at all."""
        ...

    def send(self, command: str, source: IO[bytes]) -> None:
        """Run a shell command that reads `source` from its position to the end on standard input.

        Raises LinkLost if not everything arrived, as far as this side can tell.
        """
        ...


def call(command: Sequence[str], timeout: float, stdin: IO[bytes] | int | None = subprocess.DEVNULL) -> Result:
    """A local process; one that hangs beyond `timeout` seconds counts as a lost link."""
    try:
        done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise not_installed(command[0]) from None
    except subprocess.TimeoutExpired:
        raise LinkLost(f"no answer within {timeout:.0f} s") from None
    output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return Result(done.returncode, output, errors)


def feed(command: Sequence[str], source: IO[bytes]) -> Result:
    """A local process that reads `source`; one that takes nothing for 30 s is ended, with a negative code."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise not_installed(command[0]) from None
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        moved, done = [time.monotonic()], threading.Event()
        threading.Thread(target=_kill_when_stalled, args=(process, moved, done), daemon=True).start()
        try:
            while block := source.read(BLOCK_BYTES):
                process.stdin.write(block)
                process.stdin.flush()
                moved[0] = time.monotonic()
            process.stdin.close()
        except BrokenPipeError:
            pass  # its exit code says why
        errors = process.stderr.read().decode(errors="replace")
        process.wait()
        done.set()
    return Result(process.returncode, "", errors)


def not_installed(tool: str) -> InputError:
    """For a program that is not there."""
    return InputError(f"{tool} is not installed; install it (Debian: apt install {PACKAGES.get(tool, tool)})")


def _kill_when_stalled(process: "subprocess.Popen[bytes]", moved: list[float], done: threading.Event) -> None:
    while not done.wait(1):
        if time.monotonic() - moved[0] > STALLED_S:
            process.kill()
            return
