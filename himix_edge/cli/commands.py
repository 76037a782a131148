"""All subcommands. Each is a file here; heavy libraries are imported when a subcommand needs them."""

import os

import click

from himix_edge.cli.adapter import adapter
from himix_edge.cli.analyze import analyze
from himix_edge.cli.batch import batch
from himix_edge.cli.bench import bench, report_command
from himix_edge.cli.check_model import check_model
from himix_edge.cli.convert import convert
from himix_edge.cli.devices import devices
from himix_edge.cli.distill import distill
from himix_edge.cli.evaluate import evaluate
from himix_edge.cli.export import export
from himix_edge.cli.info import info
from himix_edge.cli.last_net import TRACEBACK
from himix_edge.cli.push import push
from himix_edge.cli.run import run
from himix_edge.cli.serve import serve
from himix_edge.cli.train import train
from himix_edge.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="himix-edge")
def himix() -> None:
    """Take a HiMix vision-language model from PyTorch to the devices people hold.

    Exit codes: 0 done, 2 bad input, 3 a gate refused, 4 a needed package is missing, 1 a bug.
    """


def _show_tracebacks(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ[TRACEBACK] = "1"  # so that worker processes know too


with_traceback = click.option(
    "--traceback", is_flag=True, expose_value=False, is_eager=True, callback=_show_tracebacks,
    help=f"Show where an error arose, as {TRACEBACK}=1 does.",
)  # fmt: skip
with_traceback(himix)
COMMANDS = (
    train, distill, convert, check_model, export, adapter, run, serve, batch, evaluate, verify, info, analyze, bench,
    report_command, devices, push,
)  # fmt: skip
for command in COMMANDS:
    himix.add_command(with_traceback(command))
for command in bench.commands.values():
    with_traceback(command)
