"""A report is three files: the records as JSON, and two views of them, an HTML page and Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path

from himix_edge.bench.comparable import across_devices, named_by_device
from himix_edge.bench.devices_side_by_side import METRICS, matrix
from himix_edge.bench.page import GENERATOR, USUAL_HEADING, Heading, html_page, main_records
from himix_edge.bench.record import MAX_RECORDS, Record, is_records, read_records, write_records
from himix_edge.bench.summary import LOADING, RIGHT, TIMES, label, loading, right, times
from himix_edge.errors import InputError, printable
from himix_edge.files import refuse_foreign_file, staged_file

MARK = "<!-- himix-edge report -->"  # by which `himix report` knows its own Markdown
TITLE = "# Benchmark report"  # by which it knew that of versions up to 0.1


def write_report(
    path: Path,
    records: Sequence[Record],
    read: Sequence[Path] = (),
    heading: Heading = USUAL_HEADING,
) -> None:
    """Write `path` (.html) and, beside it, .md and .json. Earlier reports are replaced, and nothing else.

    Args:
        path: of the page.
        records: what to report.
        read: the files that they come from, which are left as they are.
        heading: title and author.

    Raises:
        InputError: something else is at one of the three, or the place cannot be written.
    """
    if len(records) > MAX_RECORDS:
        raise InputError(f"{len(records)} records; a report holds {MAX_RECORDS} at most")
    refuse_in_the_way(path, records, read)
    json_file = path.with_suffix(".json")
    if not any(same_file(json_file, each) for each in read):
        write_records(json_file, records)
    for name, content in ((path, html_page(records, heading)), (path.with_suffix(".md"), markdown(records, heading))):
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
    return any(mark in start for mark in pages) or start.startswith((MARK.encode(), TITLE.encode()))


def same_file(a: Path, b: Path) -> bool:
    """Whether two names are of one file that is there."""
    return a.exists() and b.exists() and a.samefile(b)


def markdown(records: Sequence[Record], heading: Heading = USUAL_HEADING) -> str:
    """The figures as tables, for a pull request or an issue."""
    devices = dict.fromkeys(record.device for record in records)
    lines = [MARK, f"# {plain(heading.title)}", "", *([plain(heading.author), ""] if heading.author else [])]
    for device in devices:
        facts = (device.name, device.os, device.cpu, f"{device.threads} threads" if device.threads else None)
        lines.append(list_item(", ".join(plain(fact) for fact in facts if fact)))
    columns = ("bundle", "verdict", *RIGHT, *TIMES, *LOADING)
    lines += ["", "Milliseconds, medians where no percentile is named.", ""]
    shown = named_by_device(records)
    lines += table(columns, [(label(r), r.verdict, *right(r), *times(r), *loading(r)) for r in shown])
    lines += side_by_side(records)
    doubts = [(label(r), reason) for r in shown for reason in r.reasons]
    lines += ["", *(list_item(f"{plain(name)}: {plain(reason)}") for name, reason in doubts)]
    # fenced: four spaces behind a list would make them one of its paragraphs
    commands = dict.fromkeys(" ".join(printable(record.command).split()) for record in records)
    fence = "`" * (1 + max(2, *(len(run) for command in commands for run in re.findall("`+", command)), 0))
    lines += ["", fence, *commands, fence, ""]
    return "\n".join(lines)


def side_by_side(records: Sequence[Record]) -> list[str]:
    """Device x target, and which records are in no such table; nothing of a single device."""
    comparisons, refused = across_devices([record for _, record in main_records(records)])
    lines = []
    for comparison in comparisons:
        for metric in METRICS:
            cells = zip(comparison.devices, matrix(comparison, metric), strict=True)
            rows = [(device, *(text for text, _ in row)) for device, row in cells]
            lines += ["", f"## {plain(comparison.model)}: {metric}", "", *table(("device", *comparison.targets), rows)]
    if refused:
        lines += ["", "Not compared:", ""]
        lines += [list_item(plain(f"{label(r.record)} on {r.device}: {r.reason}")) for r in refused]
    return lines


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of plain text."""
    head = [table_row([plain(column) for column in columns]), table_row(["---"] * len(columns))]
    return head + [table_row([plain(cell) for cell in row]) for row in rows]


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
