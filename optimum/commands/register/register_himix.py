"""Registers `optimum-cli export himix`: optimum reads the files of this namespace, which many packages share."""

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class HimixExportCommand(BaseOptimumCLICommand):
    """`himix export` under optimum's roof: the same options, output and exit codes."""

    COMMAND = CommandInfo("himix", "As himix export: a HiMix or another vision-language model to a bundle.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Leave every word to `himix export`, --help too."""
        parser.prefix_chars = "\0"  # no option is argparse's
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Export, and exit."""
        from himix_edge.cli import export_main

        export_main(self.args.arguments, "optimum-cli export himix")


# read once for each folder that has this file, and two are where a clone is in front of an installed package
REGISTER_COMMANDS = iter([(HimixExportCommand, ExportCommand)])
