"""A report is three files: the records as JSON, and two views of them, an HTML page and Markdown."""

from collections.abc import Sequence
from pathlib import Path

from himix_edge.files import staged_file
from himix_edge.runtimes.bench.page import html_page
from himix_edge.runtimes.bench.record import Record, write_records
from himix_edge.runtimes.bench.summary import LOADING, TIMES, label, loading, times


def write_report(path: Path, records: Sequence[Record]) -> None:
    """Write `path` (.html) and, beside it, .md and .json. Raises InputError if the place cannot be written."""
    write_records(path.with_suffix(".json"), records)
    for name, content in ((path, html_page(records)), (path.with_suffix(".md"), markdown(records))):
        with staged_file(name) as staged:
            staged.write_text(content, encoding="utf-8")


def markdown(records: Sequence[Record]) -> str:
    """The figures as tables, for a pull request or an issue."""
    devices = dict.fromkeys(record.device for record in records)
    lines = ["# Benchmark report", ""]
    for device in devices:
        facts = (device.name, device.os, device.cpu, f"{device.threads} threads" if device.threads else None)
        lines.append("- " + ", ".join(plain(fact) for fact in facts if fact))
    columns = ("bundle", *TIMES, *LOADING, "verdict")
    lines += ["", "Medians in milliseconds.", "", table_row(columns), table_row(["---"] * len(columns))]
    lines += [table_row((label(r), *times(r), *loading(r), r.verdict)) for r in records]
    doubts = [(label(r), reason) for r in records for reason in r.reasons]
    lines += ["", *(f"- {plain(name)}: {plain(reason)}" for name, reason in doubts)]
    lines += ["", *(f"    {command}" for command in dict.fromkeys(r.command.replace("\n", " ") for r in records)), ""]
    return "\n".join(lines)


def table_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def plain(text: str) -> str:
    """Text that means nothing to Markdown: records may come from anywhere."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
