"""The report as one HTML file that needs nothing else: no script, no font, no picture from anywhere."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from himix_edge.bench import charts, terms
from himix_edge.bench.comparable import across_devices, named_by_device
from himix_edge.bench.devices_side_by_side import comparison_html, refused_html
from himix_edge.bench.page_style import STYLE
from himix_edge.bench.record import Device, Record
from himix_edge.bench.summary import RIGHT, TIMES, label, loading, right, times
from himix_edge.bench.sustained_card import energy_rows, sustained_plot
from himix_edge.errors import one_line, printable
from himix_edge.units import number, size

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

GENERATOR = '<meta name="generator" content="himix-edge">'  # by which `himix report` knows its own pages
USUAL_TITLE = "Benchmark report"

NOTES = {
    "ttft": "Image file and question in, first text out: the median and its stages. Text in and out is tokenising, "
    "choosing and decoding.",
    "decode": "Every token behind an answer's first, on one logarithmic scale; the line is the median.",
    "sustained": "Questions without a pause, in windows of ten seconds; the mark is where three in a row are a tenth "
    "slower than the first ones.",
    "energy": "Of the sustained part, by each source that the device has; a token's includes its image's and prompt's.",
    "size": "Up and to the left is better.",
    "memory": "Highest resident size, above that before the bundle was opened; the mark is the bundle's size.",
    "sweep": "The image's keys and values are given; only the text runs through the decoder.",
    "devices": "The same questions under the same settings, the records of most devices first.",
    "roofline": "A token reads every decoder matrix, the head, and the cache. A model that fits into the processor's "
    "caches may read faster than memory.",
}


@dataclass(frozen=True)
class Heading:
    """What stands above a report."""

    title: str = USUAL_TITLE
    author: str | None = None


USUAL_HEADING = Heading()


def html_page(records: Sequence[Record], heading: Heading = USUAL_HEADING) -> str:
    """The whole page."""
    shown = named_by_device(records)
    numbered_main = main_records(shown)
    main = [record for _, record in numbered_main]
    cards = [
        card("Time to first token", charts.ttft_bars(main), NOTES["ttft"]),
        card("Time between tokens", charts.decode_rows(main), NOTES["decode"]),
        card("When it is warm", sustained_plot(main), NOTES["sustained"]),
        card("Energy", energy_rows(main), NOTES["energy"]),
        card("Size and speed", charts.size_and_speed(numbered_main), NOTES["size"]),
        card("Memory", charts.memory_bars(main), NOTES["memory"]),
        card("Larger images", charts.sweep_lines(shown, "prefill", "Prefill")
             + charts.sweep_lines(shown, "inter_token", "Each further token"), NOTES["sweep"]),
        card("Roofline of a token", charts.roofline_bars(main), NOTES["roofline"]),
        card("Can it be trusted?", trust(shown), "Every answer is compared with the first to the same question."),
        card("How it was measured", settings(shown), ""),
        card("Where it ran", hosts(records), ""),
        card("Words", glossary(), ""),
    ]  # fmt: skip
    summary = card(
        "Summary", summary_table(list(enumerate(shown, 1))), "Milliseconds, medians where no percentile is named."
    )
    comparisons, refused = across_devices([record for _, record in main_records(records)])
    several = "".join(
        card(f"{escape(c.model)} on {count_of(len(c.devices), 'device')}", comparison_html(c), NOTES["devices"])
        for c in comparisons
    ) + card("Not compared between devices", refused_html(refused), "")
    days = sorted({one_line(record.started[:10]) for record in records})
    devices = ", ".join(dict.fromkeys(one_line(record.device.name) for record in records))
    title = escape(one_line(heading.title))
    author = f"{escape(one_line(heading.author))} · " if heading.author else ""
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{title}: {escape(devices)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{title}</h1><p>{author}{escape(devices)} · {escape(when)} · {count_of(len(records), 'run')}</p>"
        f'{badges(records)}</header>{summary}{several}<div class="cards">{"".join(cards)}</div>'
        f"{card('How to repeat it', commands(records), '')}</main></body></html>\n"
    )


def main_records(records: Sequence[Record]) -> list[tuple[int, Record]]:
    """The records with their numbers from 1, without those of one bundle's further image sizes."""
    encoding = {(record.bundle.name, record.device) for record in records if record.samples.vision_encoder}
    return [(n, record) for n, record in enumerate(records, 1) if not is_sweep(record, encoding)]


def is_sweep(record: Record, encoding: Container[tuple[str, Device]]) -> bool:
    """Whether a record is one of a bundle's several image sizes, beside one (of `encoding`) that encodes the image."""
    return not record.samples.vision_encoder and (record.bundle.name, record.device) in encoding


def card(title: str, content: str, note: str) -> str:
    """A titled box, or nothing without content."""
    if not content:
        return ""
    small = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{small}{content}</section>"


def count_of(count: int, what: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def badges(records: Sequence[Record]) -> str:
    """How many runs have which verdict, in front of everything."""
    counts = Counter[str](record.verdict for record in records)
    shown = [name for name in ("valid", "semi-valid", "invalid") if counts[name]]
    marks = "".join(f'<span class="badge {name}">{counts[name]} {name}</span>' for name in shown)
    return f'<p class="badges">{marks}</p>'


def summary_table(numbered: Sequence[tuple[int, Record]]) -> str:
    """One row for each record, its verdict beside its name; on a phone each row is a block."""
    known = [i for i in range(len(RIGHT)) if any(right(record)[i] != "-" for _, record in numbered)]
    columns = ["size", *(RIGHT[i] for i in known), *TIMES, "load"]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = []
    for n, record in numbered:
        cells = [size(record.bundle.bytes), *(right(record)[i] for i in known), *times(record), loading(record)[0]]
        rows.append(
            f'<tr><td class="name"><span class="no">{n}</span>{escape(label(record))}</td>'
            f'<td class="verdict {record.verdict}">{record.verdict}</td>'
            + "".join(
                f'<td data-of="{escape(column)}">{escape(cell)}</td>'
                for column, cell in zip(columns, cells, strict=True)
            )
            + "</tr>"
        )
    return (
        f'<table class="summary"><thead><tr><th class="name">bundle</th><th>verdict</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def settings(records: Sequence[Record]) -> str:
    """How the records were measured: what all have in common, and then what some have of their own."""
    each = [(label(record), terms.settings(record)) for record in records]
    common = {name: words for name, words in each[0][1].items() if all(own.get(name) == words for _, own in each)}
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, own in each:
        groups.setdefault(tuple(item for item in own.items() if item[0] not in common), []).append(name)
    parts = [definitions(common)] if common else []
    for words, labels in groups.items():
        if words:
            parts.append(f"<h3>{escape(', '.join(dict.fromkeys(labels)))}</h3>{definitions(dict(words))}")
    return "".join(parts)


def definitions(words: Mapping[str, str | None]) -> str:
    """Names and what they are, without those that are nothing."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(one_line(v))}</dd>" for k, v in words.items() if v)
    return f"<dl>{items}</dl>"


def glossary() -> str:
    """The page's words."""
    return definitions(terms.GLOSSARY)


def trust(records: Sequence[Record]) -> str:
    """Verdicts with their reasons, checked answers, overhead."""
    parts = []
    for record in records:
        runs, equal = sum(a.runs for a in record.answers), sum(a.equal_runs for a in record.answers)
        facts = [f"{equal} of {runs} answers as the first time"] if runs else []
        if record.self_test_passed is not None:
            facts.append("self-test passed" if record.self_test_passed else "self-test failed")
        if record.harness_overhead is not None:
            facts.append(f"harness {record.harness_overhead:.2%} of the time")
        if record.energy_j is not None:
            facts.append(f"{number(record.energy_j / record.settings.timed)} J an iteration")
        hot = [r.cpu_temperature_c for r in record.readings if r.cpu_temperature_c is not None]
        facts += [f"up to {max(hot):.0f} °C"] if hot else []
        reasons = "".join(f"<li>{escape(printable(reason))}</li>" for reason in record.reasons)
        parts.append(
            f'<div class="row"><div class="head"><span>{escape(label(record))}</span>'
            f'<strong class="{record.verdict}">{record.verdict}</strong></div>'
            f"<small>{escape(' · '.join(facts))}</small>" + (f"<ul>{reasons}</ul>" if reasons else "") + "</div>"
        )
    return "".join(parts)


def hosts(records: Sequence[Record]) -> str:
    """Facts of each device, and the libraries' versions."""
    parts = []
    for device in list(dict.fromkeys(record.device for record in records)):
        versions = {name: v for record in records if record.device == device for name, v in record.versions.items()}
        facts = {
            "system": device.os, "processor": device.cpu, "architecture": device.architecture,
            "cores": " / ".join(str(n) for n in (device.cores, device.threads) if n) or None,
            "memory": size(device.memory_bytes) if device.memory_bytes else None,
            "reads memory at": f"{device.read_bandwidth_gb_s} GB/s" if device.read_bandwidth_gb_s else None,
            "browser": device.browser,
            "versions": ", ".join(f"{name} {v}" for name, v in sorted(versions.items())) or None,
        }  # fmt: skip
        parts.append(f"<h3>{escape(one_line(device.name))}</h3>{definitions(facts)}")
    return "".join(parts)


def commands(records: Sequence[Record]) -> str:
    """The exact commands, and the bundles they ran on."""
    runs = dict.fromkeys((record.command, record.harness) for record in records)
    bundles = dict.fromkeys((r.bundle.name, r.bundle.manifest_sha256) for r in records if r.bundle.manifest_sha256)
    lines = "".join(
        f"<pre>{escape(printable(command))}</pre><small>{escape(one_line(harness))}</small>"
        for command, harness in runs
    )
    hashes = "".join(f"<li>{escape(one_line(name))}: manifest {digest}</li>" for name, digest in bundles)
    return lines + (f"<ul>{hashes}</ul>" if hashes else "")
