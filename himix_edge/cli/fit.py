"""Does it fit? What `himix info` and `himix export --dry-run` say about a device's memory."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from himix_edge.cli.console import print_table
from himix_edge.device_classes import CLASSES, PROGRAM, find_class, read_bytes, verdict
from himix_edge.errors import GateRefused, InputError
from himix_edge.memory import Prediction
from himix_edge.units import size

F = TypeVar("F", bound=Callable[..., Any])


def on_device(command: F) -> F:
    """Options `--device-class` and `--memory`."""
    command = click.option("--memory", help="What the device leaves to a program, as 3GB.")(command)
    return click.option("--device-class", help=f"Does it fit? One of {', '.join(CLASSES)}.")(command)


def left_on(device_class: str | None, memory: str | None) -> int | None:
    """Bytes that a program may take; None where nothing was asked. Raises InputError for both at once, or neither's."""
    if device_class is not None and memory is not None:
        raise InputError("--device-class and --memory: give one of them")
    if device_class is not None:
        return find_class(device_class).left
    return None if memory is None else read_bytes(memory)


def facts(prediction: Prediction, left: int | None) -> dict[str, object]:
    """A prediction as JSON; with a verdict where there is a device."""
    found: dict[str, object] = {
        "peak_bytes": prediction.peak, "opening_bytes": prediction.opening, "parts_bytes": prediction.parts,
        "program_bytes": PROGRAM,
    }  # fmt: skip
    if prediction.note:
        found["note"] = prediction.note
    if left is not None:
        found |= {"device_bytes": left, "verdict": verdict(prediction.peak, left)}
    return found


def show(title: str, prediction: Prediction, left: int | None) -> None:
    """A prediction as a table, with its verdict."""
    rows = [(name, size(count)) for name, count in prediction.parts.items()]
    rows += [("running, together", size(prediction.running)), ("while it is opened", size(prediction.opening))]
    rows.append(("the program around it, assumed", size(PROGRAM)))
    if left is not None:
        rows += [("a program may take", size(left)), ("verdict", verdict(prediction.peak, left))]
    print_table(f"{title}: memory to run", ("predicted", "bytes"), rows)
    if prediction.note:
        click.echo(f"Note: {prediction.note}.")


def refuse_misfits(found: dict[str, Prediction], left: int | None) -> None:
    """Raises GateRefused naming what does not fit."""
    if left is None:
        return
    wrong = [f"{name} takes {size(each.peak + PROGRAM)}" for name, each in found.items()
             if verdict(each.peak, left) == "does not fit"]  # fmt: skip
    if wrong:
        raise GateRefused(f"does not fit: {'; '.join(wrong)} with the program around it, of {size(left)}")
