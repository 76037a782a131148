"""Parity results for people: a table of one export, and a report over several bundles."""

import json
from collections.abc import Sequence
from pathlib import Path

from himix_edge.bundle import Bundle, ParityResult
from himix_edge.errors import InputError
from himix_edge.files import refuse_foreign_file, staged_file
from himix_edge.reading import read_json, read_text

TITLE, REPORTS = "# Parity with PyTorch", ("parity.json", "parity.md")
MAX_REPORT_BYTES = 16 << 20
COLUMNS = ("bundle", "MB", "checks", "exact: worst / limit", "as it ships: worst / limit", "answers equal")


def row(bundle: Bundle) -> tuple[str, ...]:
    """One bundle's line of the parity report."""
    results = bundle.manifest.parity
    shares = [r.value for r in results if r.metric.startswith("equal of all")]
    checks = f"{sum(r.passed for r in results)} of {len(results)}"
    return (
        bundle.folder.name,
        f"{bundle.bytes / 1e6:.1f}",
        checks,
        worst(bundle, "packed"),
        worst(bundle, "runtime"),
        f"{min(shares):.1%}",
    )


def worst(bundle: Bundle, stage: str) -> str:
    """The comparison of a stage ("packed", "runtime") that came closest to its limit."""
    found = [r for r in bundle.manifest.parity if r.stage == stage and r.role != "end to end"]
    top = max(found, key=lambda r: r.value / r.limit)
    return f"{top.value:.2g} / {top.limit:.2g} ({top.metric.split()[0]})"


def write_report(folder: Path, bundles: Sequence[Bundle]) -> None:
    """parity.md and parity.json: every comparison of several bundles in one place.

    Raises:
        InputError: one of them holds something else, or cannot be written.
    """
    record = {b.folder.name: [result.model_dump() for result in b.manifest.parity] for b in bundles}
    lines = [TITLE, "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row(bundle))} |" for bundle in bundles]
    for name, content in zip(REPORTS, (json.dumps(record, indent=2), "\n".join(lines)), strict=True):
        with staged_file(folder / name, is_report) as staged:
            staged.write_text(content + "\n", encoding="utf-8")


def is_report(path: Path) -> bool:
    """Whether a file is a report of an earlier export, and so may be replaced."""
    try:
        if path.suffix == ".md":
            return read_text(path, MAX_REPORT_BYTES).startswith(TITLE)
        found = read_json(path, MAX_REPORT_BYTES)
        kept = found.values() if isinstance(found, dict) else ()
        results = [ParityResult.model_validate(result) for parity in kept for result in parity]
    except (InputError, ValueError, AttributeError, TypeError):
        return False
    return bool(results)


def refuse_in_the_way(folder: Path) -> None:
    """Raises InputError for what `write_report` would not replace."""
    for name in REPORTS:
        refuse_foreign_file(folder / name, is_report)


def table(results: list[ParityResult]) -> str:
    """Parity results as aligned text, a line each."""
    lines = [f"{'stage':<10} {'role':<24} {'metric':<22} {'value':>10} {'limit':>10}"]
    for r in results:
        verdict = "" if r.passed else "  FAILED"
        lines.append(f"{r.stage:<10} {r.role:<24} {r.metric:<22} {r.value:>10.3g} {r.limit:>10.3g}{verdict}")
    return "\n".join(lines)
