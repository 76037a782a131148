"""himix verify: is this bundle what it says, and does it answer right on this machine?"""

from pathlib import Path

import click

from himix_edge.bundle import open_verified
from himix_edge.cli.console import print_json, print_table
from himix_edge.errors import GateRefused
from himix_edge.runtimes.selftest import self_test


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(bundles: tuple[Path, ...], as_json: bool) -> None:
    """Check every file of BUNDLES and run each one's self-test here. Exit code 3 if one is not right."""
    rows = []
    for folder in bundles:
        open_verified(folder)
        result = self_test(folder)
        rows.append({"bundle": str(folder), "files": "as the manifest says", **result})
    if as_json:
        print_json(rows)
    else:
        print_table("", ("bundle", "files", "pixels", "answer", "expected"),
                    [(r["bundle"], r["files"], r["pixels"], r["answer"], r["expected"]) for r in rows])  # fmt: skip
    wrong = [str(r["bundle"]) for r in rows if not r["passed"]]
    if wrong:
        raise GateRefused(f"the self-test failed on this machine: {', '.join(wrong)}")
