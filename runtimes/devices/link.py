"""Running commands on a device and sending bytes to it: what `ssh` and `adb shell` have in common."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from himix_edge.errors import InputError


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
        raise InputError(f"{command[0]} is not installed; install it (Debian: apt install "
                         f"{'openssh-client' if command[0].endswith('ssh') else command[0]})") from None  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LinkLost(f"no answer within {timeout:.0f} s") from None
    output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return Result(done.returncode, output, errors)
