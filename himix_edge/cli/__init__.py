"""The `himix` command. All it does is in `commands`, read only when `main` can say what goes wrong with that."""

from typing import Any

from himix_edge.cli.last_net import call


def main() -> None:
    """Entry point of `himix`."""
    call(lambda: _command("himix"), "himix")


def export_main() -> None:
    """Entry point of `himix-export`, the same as `himix export`."""
    call(lambda: _command("export"), "himix-export")


def _command(name: str) -> Any:
    from himix_edge.cli import commands

    return getattr(commands, name)


def __getattr__(name: str) -> Any:
    if name == "himix":  # the group of all commands
        return _command(name)
    raise AttributeError(name)
