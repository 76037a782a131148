"""The last net: however a command ends, it ends with at most one line and an exit code that says what happened."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Never

import click
from click.shell_completion import shell_complete

from himix_edge.cli import crash_log, streams
from himix_edge.errors import GateRefused, HimixError, one_line, printable

TRACEBACK = "HIMIX_TRACEBACK"
INTERRUPTED = 130  # as shells have it


class Terminated(BaseException):
    """Someone ends this process: what is staged is removed on the way out, as with Ctrl+C."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def call(load: Callable[[], click.Command], name: str, arguments: Sequence[str] | None = None) -> Never:
    """Run the command that `load` gives, called `name`, on `arguments` or this process's, and exit."""
    streams.protect()
    failed: list[int] = []  # exit codes of threads
    _watch(name, failed)
    try:
        logging.getLogger().setLevel(logging.WARNING)
        code = _run(load(), name, sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BaseException as error:
        code = _ended(error, name)
    sys.exit(code or (failed[0] if failed else 0))


def _run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """As `click.Command.main` does, which has ways of its own with closed pipes and interrupts."""
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    if asked := os.environ.get(variable):
        return shell_complete(command, {}, name, variable, asked)
    try:
        with command.make_context(name, list(arguments)) as context:
            command.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    return 0


def _ended(error: BaseException, name: str) -> int:
    """Say how it ended; the exit code."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or 0
    text, code = describe(error, name)
    if os.environ.get(TRACEBACK, "") not in ("", "0") and not isinstance(error, click.UsageError | SystemExit):
        text = "".join(traceback.format_exception(error)) + text
    try:
        sys.stdout.flush()  # what was found before belongs in front of what went wrong
    except streams.OutputLost:
        streams.silence()
    if text:
        print(text, file=sys.stderr, flush=True)
    return code


def describe(error: BaseException, name: str) -> tuple[str, int]:
    """One line (of a gate: its table) for how a command called `name` ended, or none, and the exit code."""
    if isinstance(error, GateRefused):
        return f"{name}: error: {printable(str(error))}", error.exit_code
    if isinstance(error, HimixError):
        return f"{name}: error: {one_line(str(error))}", error.exit_code
    if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later
        return str(error), 2
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else name
        return f"{where}: error: {one_line(error.format_message())} (see {where} --help)", 2
    if isinstance(error, click.ClickException):
        return f"{name}: error: {one_line(error.format_message())}", 2
    if isinstance(error, streams.OutputLost):
        return ("", 0) if error.reader_gone else (f"{name}: error: {error}", 2)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        below = "\n" if sys.stderr.isatty() else ""  # the ^C that it shows
        return f"{below}{name}: interrupted", INTERRUPTED
    if isinstance(error, Terminated):
        return f"{name}: ended by {error}", error.exit_code
    if isinstance(error, EOFError):
        return f"{name}: error: standard input ended before an answer was given", 2
    if isinstance(error, SystemExit):
        return f"{name}: error: {one_line(str(error))}", 1
    return _unexpected(error, name)


def _unexpected(error: BaseException, name: str) -> tuple[str, int]:
    path = crash_log.write(error)
    log = f"log: {printable(str(path))}" if path else f"{TRACEBACK}=1 shows where"
    said = one_line(str(error))
    if is_out_of_memory(error):
        return f"{name}: error: not enough memory{f': {said}' if said else ''} ({log})", 2
    if isinstance(error, OSError) and error.errno is not None:  # the machine's doing
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}: error: {one_line(f'{place}{error.strerror}')} ({log})", 2
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"{name}: error: unexpected {what} (a bug; please report it with its {log})", 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, PyTorch or its accelerator could not allocate what was asked for."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _watch(name: str, failed: list[int]) -> None:
    """Threads that fail, destructors that do, and signals to end."""

    def thread_failed(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
            failed.append(_ended(found.exc_value, name))

    def ignored(found: "sys.UnraisableHookArgs") -> None:
        """Nobody can act on what fails while objects are taken apart, except if it was meant to end everything."""
        if isinstance(found.exc_value, Terminated | KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        if os.getpid() != own:
            signal.raise_signal(number)
        raise Terminated(number)

    own = os.getpid()
    threading.excepthook = thread_failed
    if os.environ.get(TRACEBACK, "") in ("", "0"):
        sys.unraisablehook = ignored
    for kind in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, kind, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # not where nohup has it ignored
            signal.signal(number, terminate)
