"""The `himix` command. All it does is in `commands`, read only when `main` can say what goes wrong with that."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from himix_edge.cli.last_net import call

if TYPE_CHECKING:
    import click


def main() -> None:
    """Entry point of `himix`."""
    call(lambda: _command("himix"), "himix")


def export_main(arguments: Sequence[str] | None = None, name: str = "himix-export") -> None:
    """Entry point of `himix-export` and of optimum's `export himix`, the same as `himix export`.

    Args:
        arguments: the command's words; by default this process's.
        name: what it is called in messages.
    """
    call(lambda: _command("export"), name, arguments)


def _command(name: str) -> "click.Command":
    from himix_edge.cli import commands

    found: click.Command = getattr(commands, name)
    return found


def __getattr__(name: str) -> "click.Command":
    if name == "himix":  # the group of all commands
        return _command(name)
    raise AttributeError(name)
