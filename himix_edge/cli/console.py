"""What the commands print with: results on standard output, progress on standard error."""

import json
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import click
from rich import progress
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.status import Status
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from himix_edge.errors import printable

T = TypeVar("T")
UNFOLDED = 1000  # columns

for _name in ("COLUMNS", "LINES"):  # a terminal's size that is none would be believed, and filled with spaces
    if not re.fullmatch("[1-9][0-9]{1,3}", os.environ.get(_name, "80")):
        del os.environ[_name]


class _Status(Status):
    """A line that says what is going on; brackets in it mean nothing."""

    def update(
        self,
        status: RenderableType | None = None,
        *,
        spinner: str | None = None,
        spinner_style: StyleType | None = None,
        speed: float | None = None,
    ) -> None:
        shown = escape(printable(status)) if isinstance(status, str) else status
        super().update(shown, spinner=spinner, spinner_style=spinner_style, speed=speed)


class _ProgressConsole(Console):
    def status(
        self,
        status: RenderableType,
        *,
        spinner: str = "dots",
        spinner_style: StyleType = "status.spinner",
        speed: float = 1.0,
        refresh_per_second: float = 12.5,
    ) -> Status:
        return _Status(
            escape(printable(status)) if isinstance(status, str) else status, console=self, spinner=spinner,
            spinner_style=spinner_style, speed=speed, refresh_per_second=refresh_per_second,
        )  # fmt: skip


progress_console = _ProgressConsole(stderr=True, markup=False, emoji=False)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items` as they are, with a bar on standard error that says `what` is going on."""
    return progress.track(items, escape(printable(what)), total, console=progress_console)


class StepDisplay:
    """Steps of long work on standard error, each with the time since the first: a line that changes, or lines."""

    def __init__(self) -> None:
        columns = progress.SpinnerColumn(), progress.TextColumn("{task.description}", markup=False)
        self._progress = progress.Progress(
            *columns, progress.TimeElapsedColumn(), console=progress_console, transient=True,
            disable=not progress_console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, step: str) -> None:
        """Say what begins now."""
        self._progress.update(self._task, description=printable(step))
        if not progress_console.is_terminal:
            progress_console.print(f"{printable(step)} ({time.monotonic() - self._start:.0f} s)")


def print_json(value: object) -> None:
    """One JSON document on standard output. A number that is none is null, as JSON has no NaN."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers are right-aligned. Text is printed as it is, brackets too."""
    rows = [tuple(row) for row in rows]
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:.4g}" if isinstance(cell, float) else printable(str(cell))) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fit
        console.width = UNFOLDED
    console.print(table)
