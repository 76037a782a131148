"""What the commands' options and help share, beyond what click has."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, overload

import click

from himix_edge.errors import InputError
from himix_edge.reading import read_text
from himix_edge.runtimes import Structure
from himix_edge.runtimes.packed import BITS, FLOAT_BITS

F = TypeVar("F", bound=Callable[..., object])


@overload
def numbers(option: str, text: str) -> tuple[int, ...]: ...
@overload
def numbers(option: str, text: None) -> None: ...
@overload
def numbers(option: str, text: str | None) -> tuple[int, ...] | None: ...
def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers separated by commas; None stays None. Raises InputError naming the option."""
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text}: give numbers separated by commas") from None


def examples(*lines: str) -> str:
    """What stands at the end of a command's help; click leaves its lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def on_provider(command: F) -> F:
    """The option of what computes an exported bundle, as `provider`."""
    what = "What computes, if the bundle's runtime has it here: cpu, cuda, coreml, openvino:GPU, gpu, ..."
    option = click.option("--provider", metavar="NAME", help=f"{what} [default: the runtime's choice]")
    return option(command)


def kept_bits(command: F) -> F:
    """The option of how images' keys and values are kept, as `image_bits`."""
    option = click.option(
        "--image-bits", type=click.Choice([str(bits) for bits in BITS]), default=str(FLOAT_BITS), show_default=True,
        callback=lambda context, parameter, value: int(value),
        help="Of the images' keys and values that are kept: float32, float16 or int8.",
    )  # fmt: skip
    return option(command)


def with_adapter(command: F) -> F:
    """The option of the adapter that a bundle is used with, as `adapter`."""
    option = click.option(
        "--adapter", type=click.Path(path_type=Path), help="Use --bundle with this file of himix adapter."
    )
    return option(command)


def refuse_without_bundle(
    bundle: Path | None, threads: int | None, provider: str | None, adapter: Path | None, kv_bits: int = 32
) -> None:
    """Raises InputError for an option of exported bundles where none is given."""
    if bundle is None and (threads or provider or kv_bits != 32):
        option = "--threads" if threads else "--provider" if provider else "--kv-bits"
        raise InputError(f"{option} is of an exported bundle; --model is PyTorch's, on the CPU, with OMP_NUM_THREADS")
    if bundle is None and adapter is not None:
        raise InputError("--adapter is of an exported bundle; give that with --bundle")


def cache_bits(command: F) -> F:
    """The option of an exported bundle's cache, as `kv_bits`."""
    option = click.option(
        "--kv-bits", type=click.Choice(["32", "8"]), default="32", show_default=True,
        callback=lambda context, parameter, value: int(value),
        help="Of the numbers in the decoder's cache; 8 takes an OpenVINO bundle.",
    )  # fmt: skip
    return option(command)


def structured(command: F) -> F:
    """The options of `structure_of`."""
    for option in (
        click.option("--choices", multiple=True, help="Answers with one of these texts; give it for each."),
        click.option("--regex", help="Answers with what this regular expression matches as a whole."),
        click.option("--json-schema", type=click.Path(path_type=Path), help="Answers with JSON by this JSON Schema."),
    ):
        command = option(command)
    return command


def structure_of(json_schema: Path | None, regex: str | None, choices: tuple[str, ...]) -> Structure | None:
    """What answers have to be, if an option says it. Raises InputError for two of them, and for what is none."""
    if (json_schema is not None) + (regex is not None) + bool(choices) > 1:
        raise InputError("--json-schema, --regex and --choices exclude each other")
    if json_schema is not None:
        return Structure.json_schema(read_text(json_schema))
    if regex is not None:
        return Structure.regex(regex)
    return Structure.choices(choices) if choices else None
