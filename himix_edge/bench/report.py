"""A report is three files: the records as JSON, and two views of them, an HTML page and Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path

from himix_edge.bench.page import GENERATOR, html_page
from himix_edge.bench.record import MAX_RECORDS, Record, is_records, read_records, write_records
from himix_edge.bench.summary import LOADING, TIMES, label, loading, times
from himix_edge.errors import InputError, printable
from himix_edge.files import refuse_foreign_file, staged_file

TITLE = "# Benchmark report"


def write_report(path: Path, records: Sequence[Record], read: Sequence[Path] = ()) -> None:
    """Write `path` (.html) and, beside it, .md and .json. Earlier reports are replaced, and nothing else.

    Args:
        path: of the page.
        records: what to report.
        read: the files that they come from, which are left as they are.

    Raises:
        InputError: something else is at one of the three, or the place cannot be written.
    """
    if len(records) > MAX_RECORDS:
        raise InputError(f"{len(records)} records; a report holds {MAX_RECORDS} at most")
    refuse_in_the_way(path, records, read)
    json_file = path.with_suffix(".json")
    if not any(same_file(json_file, each) for each in read):
        write_records(json_file, records)
    for name, content in ((path, html_page(records)), (path.with_suffix(".md"), markdown(records))):
        with staged_file(name, is_report) as staged:
            staged.write_text(content, encoding="utf-8")


def refuse_in_the_way(path: Path, records: Sequence[Record] = (), read: Sequence[Path] = ()) -> None:
    """Raises InputError for whatever `write_report` would not replace."""
    for name in (path, path.with_suffix(".md")):
        refuse_foreign_file(name, is_report)
    json_file = path.with_suffix(".json")
    refuse_foreign_file(json_file, is_records)
    if records and any(same_file(json_file, each) for each in read) and read_records(json_file) != list(records):
        raise InputError(f"{json_file}: is read, and the report's own records would go there; choose another --out")


def is_report(path: Path) -> bool:
    """Whether a file is a page or the Markdown of an earlier report."""
    with path.open("rb") as file:
        start = file.read(1024)
    pages = (GENERATOR.encode(), b"<title>Latency of ")  # the second stands in those of versions up to 0.1
    return any(mark in start for mark in pages) or start.startswith(TITLE.encode())


def same_file(a: Path, b: Path) -> bool:
    """Whether two names are of one file that is there."""
    return a.exists() and b.exists() and a.samefile(b)


def markdown(records: Sequence[Record]) -> str:
    """The figures as tables, for a pull request or an issue."""
    devices = dict.fromkeys(record.device for record in records)
    lines = [TITLE, ""]
    for device in devices:
        facts = (device.name, device.os, device.cpu, f"{device.threads} threads" if device.threads else None)
        lines.append(list_item(", ".join(plain(fact) for fact in facts if fact)))
    columns = ("bundle", *TIMES, *LOADING, "verdict")
    lines += ["", "Medians in milliseconds.", "", table_row(columns), table_row(["---"] * len(columns))]
    lines += [table_row([plain(cell) for cell in (label(r), *times(r), *loading(r), r.verdict)]) for r in records]
    doubts = [(label(r), reason) for r in records for reason in r.reasons]
    lines += ["", *(list_item(f"{plain(name)}: {plain(reason)}") for name, reason in doubts)]
    # fenced: four spaces behind a list would make them one of its paragraphs
    commands = dict.fromkeys(" ".join(printable(record.command).split()) for record in records)
    fence = "`" * (1 + max(2, *(len(run) for command in commands for run in re.findall("`+", command)), 0))
    lines += ["", fence, *commands, fence, ""]
    return "\n".join(lines)


def table_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table, of cells in Markdown."""
    return "| " + " | ".join(cells) + " |"


def list_item(text: str) -> str:
    """An item of a list, whose text begins no list of its own."""
    return "- " + re.sub(r"^(?:([-+])|([0-9]{1,9})([.)]))(?=\s|$)", lambda m: f"{m[2] or ''}\\{m[1] or m[3]}", text)


def plain(text: str) -> str:
    """Text that means nothing to Markdown: records may come from anywhere."""
    line = " ".join(printable(text).split())
    line = re.sub(r"([\\|<>*_`\[\]#~&$!])", r"\\\1", line)
    return re.sub(r"(?i)\b(https?:|www\.|ftp:)(?=\S)", lambda m: m[0][:-1] + "\\" + m[0][-1], line)
