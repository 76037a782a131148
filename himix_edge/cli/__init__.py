"""The `himix` command. Each subcommand is a file here; heavy libraries are imported when a subcommand needs them."""

import logging
import sys

import click

from himix_edge.cli.analyze import analyze
from himix_edge.cli.bench import bench, report_command
from himix_edge.cli.convert import convert
from himix_edge.cli.devices import devices
from himix_edge.cli.evaluate import evaluate
from himix_edge.cli.export import export
from himix_edge.cli.info import info
from himix_edge.cli.run import run
from himix_edge.cli.train import train
from himix_edge.cli.verify import verify
from himix_edge.errors import HimixError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="himix-edge")
def himix() -> None:
    """Take a HiMix vision-language model from PyTorch to the devices people hold.

    Exit codes: 0 done, 2 bad input, 3 a gate refused, 4 a needed package is missing, 1 a bug.
    """


for command in (train, convert, export, run, evaluate, verify, info, analyze, bench, report_command, devices):
    himix.add_command(command)


def main() -> None:
    """Entry point of `himix`."""
    _call(himix, "himix")


def export_main() -> None:
    """Entry point of `himix-export`, the same as `himix export`."""
    _call(export, "himix-export")


def _call(command: click.Command, name: str) -> None:
    """Run a command; an expected failure becomes one line (a refusal: its table) and its exit code."""
    logging.getLogger().setLevel(logging.WARNING)
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except HimixError as error:
        click.echo(f"{name}: error: {error}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else name
        click.echo(f"{where}: error: {error.format_message()} (see {where} --help)", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{name}: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
