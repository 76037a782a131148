"""Standard output and error that can be relied on: what is not written is an error, what cannot be encoded is not."""

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(BaseException):
    """Standard output takes no more: its reader has gone, or its disk is full.

    Not an Exception, for the same reason that KeyboardInterrupt is none: no code on the way may take it for its own.
    """

    def __init__(self, error: OSError):
        super().__init__(f"standard output: {error.strerror or error}")
        self.reader_gone = isinstance(error, BrokenPipeError)


class _Output(io.FileIO):
    """A descriptor to write to; a failure is raised as OutputLost, or, where `dispensable`, passed over."""

    def __init__(self, descriptor: int, dispensable: bool):
        super().__init__(descriptor, "w", closefd=False)
        self.dispensable = dispensable

    def write(self, data: "ReadableBuffer") -> int:
        try:
            while (written := super().write(data)) is None:  # it does not block, and takes nothing now
                select.select([], [self], [])
            return written
        except OSError as error:
            if self.dispensable:
                return memoryview(data).nbytes
            raise OutputLost(error) from None


def protect() -> None:
    """Put reliable streams in the place of this process's; those that were closed get an empty one."""
    if os.name != "posix":  # its consoles are no descriptors
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return
    for descriptor in range(3):
        _fill(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _stream(1, sys.stdout, False), _stream(2, sys.stderr, True)


def silence() -> None:
    """Drop what standard output still holds: it could not be written, and would fail again at exit."""
    if os.name != "posix":
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _fill(descriptor: int) -> None:
    """The next file to be opened must not be taken for a standard stream. Writing to a closed output stays an error."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
        os.dup2(opened, descriptor)
        if opened != descriptor:
            os.close(opened)


def _stream(descriptor: int, usual: TextIO | None, dispensable: bool) -> TextIO:
    if usual is not None and not _is_on(usual, descriptor):
        return usual  # a program that calls this one in its own process put it there
    raw = _Output(descriptor, dispensable)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), getattr(usual, "encoding", None) or "utf-8", "backslashreplace",
        line_buffering=dispensable or raw.isatty(), write_through=getattr(usual, "write_through", False),
    )  # fmt: skip


def _is_on(stream: TextIO, descriptor: int) -> bool:
    try:
        return bool(stream.fileno() == descriptor)
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the last two
        return False
