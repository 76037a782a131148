"""Running commands on a device and sending bytes to it: what `ssh` and `adb shell` have in common."""

import contextlib
import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol

import psutil

from himix_edge.errors import InputError

ANSWER_S = 30.0
STALLED_S = 30.0
BLOCK_BYTES = 64 << 10
MAX_OUTPUT_BYTES = 16 << 20  # a long run's record is a hundredth of it
MAX_ERROR_BYTES = 64 << 10  # of which the end is kept
AFTER_END_S = 1.0  # for what a tool's own children still hold open
PACKAGES = {"ssh": "openssh-client"}  # Debian's, where they are called otherwise than the command


class LinkLost(InputError):
    """The connection broke; trying again may help."""


@dataclass(frozen=True)
class Result:
    """A remote command's end: exit code, standard output and error, as it wrote them."""

    code: int
    output: str
    errors: str


class Link(Protocol):
    """A way to a POSIX shell somewhere else."""

    name: str  # for messages

    def run(self, command: str, timeout: float = ANSWER_S) -> Result:
        """Run a shell command there. Raises LinkLost, or InputError if the device cannot be reached at all."""
        ...

    def send(self, command: str, source: IO[bytes]) -> None:
        """Run a shell command that reads `source` from its position to the end on standard input.

        Raises LinkLost if not everything arrived, as far as this side can tell.
        """
        ...


def tool(variable: str, usual: str) -> list[str]:
    """The client that an environment variable names, as words; `usual` without it. Raises InputError naming it."""
    try:
        words = shlex.split(os.environ.get(variable, usual))
    except ValueError as error:
        raise InputError(f"{variable}: {error}") from None
    if not words or "\0" in "".join(words):
        raise InputError(f"{variable}: names no command")
    return words


def call(command: Sequence[str], timeout: float) -> Result:
    """A local process without input. Raises LinkLost if it takes longer, InputError if it says more than 16 MiB."""
    return _exchange(command, None, timeout)


def feed(command: Sequence[str], source: IO[bytes]) -> Result:
    """A local process that reads `source`; one that takes nothing for 30 s is ended, with a negative code."""
    return _exchange(command, source, STALLED_S)


def _exchange(command: Sequence[str], source: IO[bytes] | None, patience: float) -> Result:
    """Start a process, feed it, read all it says, and see to it that nothing of it is left.

    `patience` in seconds: for all of it, or while it is fed, between two blocks that it takes.
    """
    stdin = subprocess.DEVNULL if source is None else subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    except FileNotFoundError:
        raise not_installed(command[0]) from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(f"{command[0]}: cannot be started: {getattr(error, 'strerror', None) or error}") from None
    try:
        output, errors = _Talk(process, source, patience).run()
        return Result(process.wait(), output, errors)
    except subprocess.TimeoutExpired:
        _end(process)
        if source is not None:
            return Result(process.wait(), "", "")
        raise LinkLost(f"no answer within {patience:.0f} s") from None
    except BaseException:
        _end(process)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class _Talk:
    """One process's three streams, moved until they and it have ended. Raises subprocess.TimeoutExpired."""

    def __init__(self, process: "subprocess.Popen[bytes]", source: IO[bytes] | None, patience: float):
        self._process, self._source, self._patience = process, source, patience
        self._output, self._errors, self._block = bytearray(), bytearray(), b""
        self._heard = time.monotonic()
        self._ended: float | None = None

    def run(self) -> tuple[str, str]:
        process = self._process
        with selectors.DefaultSelector() as streams:
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                streams.register(stream, selectors.EVENT_READ)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                streams.register(process.stdin, selectors.EVENT_WRITE)
            while streams.get_map() and not self._over():
                for key, _ in streams.select(0.2):
                    self._move(streams, key.fileobj)
        while process.poll() is None and not self._over():  # it closed its streams and goes on
            time.sleep(0.02)
        return self._output.decode(errors="replace"), self._errors.decode(errors="replace")

    def _over(self) -> bool:
        now = time.monotonic()
        if self._process.poll() is not None:
            self._ended = self._ended or now
            return now - self._ended > AFTER_END_S
        if now - self._heard > self._patience:
            raise subprocess.TimeoutExpired(self._process.args, self._patience)
        return False

    def _move(self, streams: selectors.BaseSelector, stream: object) -> None:
        process = self._process
        if stream is process.stdin:
            self._write(streams)
            return
        piece = os.read(stream.fileno(), BLOCK_BYTES)  # type: ignore[attr-defined]
        if not piece:
            streams.unregister(stream)  # type: ignore[arg-type]
        elif stream is process.stderr:
            self._errors = (self._errors + piece)[-MAX_ERROR_BYTES:]
        elif self._source is None:  # what a receiver of files says is not asked for
            self._output += piece
            if len(self._output) > MAX_OUTPUT_BYTES:
                raise InputError(f"its answer is longer than {MAX_OUTPUT_BYTES >> 20} MiB; refused")

    def _write(self, streams: selectors.BaseSelector) -> None:
        assert self._source is not None
        stdin = self._process.stdin
        assert stdin is not None
        self._block = self._block or self._source.read(BLOCK_BYTES)
        try:
            if self._block:
                self._block = self._block[os.write(stdin.fileno(), self._block) :]
                self._heard = time.monotonic()
                return
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass  # its exit code says why
        streams.unregister(stdin)
        stdin.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and what it started, a wrapper's ssh for one."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()


def not_installed(name: str) -> InputError:
    """For a program that is not there."""
    return InputError(f"{name} is not installed; install it (Debian: apt install {PACKAGES.get(name, name)})")
