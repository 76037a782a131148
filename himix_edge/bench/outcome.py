"""What a measuring process says, line by line. One on a board is not taken at its word: what it says has a schema."""

import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from pydantic import Field

from himix_edge.bench.record import Answer, Device, Energy, Part, Reading, Samples, Sustained, Text, Words
from himix_edge.errors import HimixError, one_line
from himix_edge.reading import parse_json, validated

EXIT_CODES = (2, 3, 4)
PROGRESS_MOST = 1 << 31
P = TypeVar("P", bound=Part)


class WorkerFailed(HimixError):
    """A measuring process ended with an expected failure; it has that failure's exit code."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


class BoardDevice(Device):
    """A board's facts, its Python among them."""

    python: Text = ""


class BoardFacts(Part):
    """The outcome of `runner.pyz facts`."""

    facts: BoardDevice
    versions: dict[Text, Text | None]
    reading: Reading


class BoardLoad(Part):
    """The outcome of `runner.pyz load`."""

    load: float = Field(ge=0)
    baseline_bytes: int | None = None


class BoardMemory(Part):
    """See the record's `Memory`."""

    baseline_bytes: int | None = Field(default=None, ge=0)
    peak_bytes: int | None = Field(default=None, ge=0)
    pss_bytes: int | None = Field(default=None, ge=0)
    pss_source: Text | None = None


class BoardOutcome(Part):
    """The outcome of `runner.pyz measure`; the fields are those of the record."""

    samples: Samples
    readings: list[Reading]
    energy_j: float | None
    harness_overhead: float
    answers: list[Answer]
    vision_tokens: int = Field(ge=0)
    throttled: bool
    memory: BoardMemory
    self_test_passed: bool
    provider: Text
    notes: list[Words]
    versions: dict[Text, Text]
    facts: Device
    sustained: Sustained | None
    energy: list[Energy]
    unplugged: bool | None
    files_dropped: Text | None


def follow(lines: Iterable[str | bytes], progress: Callable[[int, int], None]) -> dict[str, object] | None:
    """Read a worker's lines to the end; its outcome, or None if there was none. Raises what it reports."""
    outcome = None
    for line in lines:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a runtime's own chatter
        if not isinstance(message, dict):
            continue
        if (at := steps(message)) is not None:
            progress(*at)
        elif "error" in message:
            code = message.get("exit_code")
            raise WorkerFailed(one_line(str(message["error"])), code if code in EXIT_CODES else 2)
        elif isinstance(message.get("outcome"), dict):
            outcome = message["outcome"]
    return outcome


def steps(message: object) -> tuple[int, int] | None:
    """(done, of) of a progress message; None for any other."""
    at = message.get("progress") if isinstance(message, dict) else None
    if not isinstance(at, list) or len(at) != 2 or not all(type(n) is int and 0 <= n < PROGRESS_MOST for n in at):
        return None
    return at[0], at[1]


def board_outcome(kind: type[P], line: str, where: str) -> P | None:
    """A board's line as the outcome that is due; None if it holds none.

    Raises:
        WorkerFailed: it reports an error.
        InputError: an outcome that breaks the schema.
    """
    if follow([line], lambda done, of: None) is None:
        return None
    message = parse_json(line, where)
    return validated(kind, message.get("outcome") if isinstance(message, dict) else None, where)
