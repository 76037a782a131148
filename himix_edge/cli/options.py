"""What the commands' options and help share, beyond what click has."""

from typing import overload

from himix_edge.errors import InputError


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
