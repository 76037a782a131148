"""What of docs/ is made from the code, the CLI reference and JSON Schemas: `python -m tests.generated_docs`."""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from himix_edge.bench.record import Record
from himix_edge.bundle import Manifest
from himix_edge.cli import himix

DOCS = Path(__file__).parents[1] / "docs"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
WIDTH = 100  # columns
INTRODUCTION = """# Command line

Exit codes: 0 done, 1 a bug, 2 bad input or usage, 3 a gate refused, 4 a needed package is missing, 130 interrupted.
Results go to standard output, progress and errors to standard error. `--json` prints one JSON document. `himix-export`
is `himix export`. What a command may replace, and where logs go: [Files](files.md).
"""


def generated() -> dict[str, str]:
    """File in docs/ -> its content."""
    return {
        "cli.md": INTRODUCTION + "".join(_pages(himix, "himix", None)),
        "schemas/manifest.schema.json": _schema(Manifest),
        "schemas/record.schema.json": _schema(Record),
    }


def _schema(kind: type[Manifest] | type[Record]) -> str:
    return json.dumps({"$schema": DIALECT, **kind.model_json_schema()}, indent=1) + "\n"


def _pages(command: click.Command, name: str, above: click.Context | None) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=above, info_name=name, **settings)
    yield f"\n{'###' if above else '##'} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from _pages(found, part, context)


if __name__ == "__main__":
    for file, content in generated().items():
        (DOCS / file).parent.mkdir(exist_ok=True)
        (DOCS / file).write_text(content, encoding="utf-8")
