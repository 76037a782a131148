"""himix verify: is this bundle what it says, and does it answer right on this machine?"""

from pathlib import Path

import click

from himix_edge import extras
from himix_edge.bundle import Bundle
from himix_edge.cli.console import print_json, print_table
from himix_edge.cli.options import examples, on_provider
from himix_edge.errors import GateRefused
from himix_edge.runtimes.opening import open_session
from himix_edge.runtimes.selftest import self_test
from himix_edge.runtimes.verifying import open_verified


@click.command(
    short_help="Check every file of bundles, and their self-tests.",
    epilog=examples(
        "himix verify bundles/nano-onnx-int8",
        "himix verify --weights bundles/nano-onnx-int4 bundles/nano-openvino-int4",
    ),
)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", is_flag=True, help="Read integers and scales back out of the files and compare them.")
@on_provider
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(bundles: tuple[Path, ...], weights: bool, provider: str | None, as_json: bool) -> None:
    """Check every file of BUNDLES and run each one's self-test here. Exit code 3 if one is not right.

    With --weights the stored integers and scales are compared, bit for bit, with what was quantized and with those of
    the other bundles.
    """
    opened = [open_verified(folder) for folder in bundles]
    if weights:
        _compare_weights(opened, as_json)
        return
    rows = [
        {
            "bundle": str(b.folder),
            "files": "as the manifest says",
            **self_test(b.folder, open_session(b, device=provider)),
        }
        for b in opened
    ]
    if as_json:
        print_json(rows)
    else:
        print_table("", ("bundle", "files", "pixels", "answer", "expected"),
                    [(r["bundle"], r["files"], r["pixels"], r["answer"], r["expected"]) for r in rows])  # fmt: skip
    wrong = [str(r["bundle"]) for r in rows if not r["passed"]]
    if wrong:
        raise GateRefused(f"the self-test failed on this machine: {', '.join(wrong)}")


def _compare_weights(bundles: list[Bundle], as_json: bool) -> None:
    with extras.needed("torch", extras.TORCH):
        from himix_edge.export.stored_weights import compare
    found = compare(bundles)
    if as_json:
        print_json([{"bundle": str(c.bundle.folder), "tensors": c.tensors, "differs_from_reference": c.reference,
                     "differs_from_others": c.others} for c in found])  # fmt: skip
    else:
        columns = ("bundle", "tensors", "as quantized", "as in the other bundles")
        rows = [(str(c.bundle.folder), c.tensors, _words(c.reference), _words(c.others)) for c in found]
        print_table("Integers and scales, read from the files", columns, rows)
    wrong = [f"{c.bundle.folder}: {', '.join(dict.fromkeys(c.reference + c.others))}" for c in found if not c.passed]
    if wrong:
        raise GateRefused("stored weights differ: " + "; ".join(wrong))


def _words(differing: tuple[str, ...]) -> str:
    return f"{len(differing)} differ" if differing else "all equal"
