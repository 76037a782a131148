"""Errors that end a command with one line for the person at the keyboard, and the exit code each stands for."""


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
