"""Errors that end a command with one line for the person at the keyboard, and the exit code each stands for."""

import re

MAX_LINE = 2000  # characters of one error, which may quote a file at any length
_LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# what steers a terminal or turns the direction of writing, and halves of characters, which no encoding has
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


class HimixError(Exception):
    """Base of every expected failure; the CLI prints its text and exits with `exit_code`."""

    exit_code = 2


class InputError(HimixError):
    """Bad input or usage: the text says what is wrong, where, and what to do. Exit code 2."""


class GateRefused(HimixError):
    """A parity gate refused an export, or a verification failed. Exit code 3."""

    exit_code = 3


class BackendMissing(HimixError):
    """An optional package is not installed; the text holds the pip line. Exit code 4."""

    exit_code = 4

    def __init__(self, package: str, extra: str):
        super().__init__(f"{package} is not installed; install it with: pip install 'himix-edge[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type["BackendMissing"], tuple[str, str]]:
        return type(self), (self.package, self.extra)  # from a worker process to this one


def printable(text: str) -> str:
    """Text that may come from a file or an argument, its control characters written out; line ends and tabs stay."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Such text as one line of bounded length."""
    line = printable(_LINE_ENDS.sub(" ", text.strip()))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 300]} ... {line[-295:]}"


def last_line(text: str, default: str = "") -> str:
    """The last line of a program's output that says something, as `one_line`; `default` if none does."""
    lines = [line for line in text[-10 * MAX_LINE :].splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else default
