"""The report as one HTML file that needs nothing else: no script, no font, no picture from anywhere."""

from collections.abc import Container, Sequence
from html import escape

from himix_edge.bench import charts
from himix_edge.bench.record import Device, Record
from himix_edge.bench.summary import TIMES, label, loading, number, times
from himix_edge.errors import one_line, printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

GENERATOR = '<meta name="generator" content="himix-edge">'  # by which `himix report` knows its own pages
STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d1f23;--soft:#666c75;--line:#e3e3de;--track:#efefeb;
--c1:#3866c9;--c2:#d98a00;--c3:#2c8f4f;--c4:#c5403f;--c5:#8156c4;--c6:#1a8f9c;
--preprocess:#9db6ea;--encoder:#3866c9;--injector:#e0a100;--prefill:#2c8f4f;--rest:#b4b7bd;
--good:#1d7a40;--doubt:#9a6200;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#131416;--card:#1c1e21;--ink:#e9eaec;--soft:#9aa1ab;--line:#32353a;
--track:#2a2d31;--c1:#6f98f0;--c2:#f0ad2d;--c3:#57bd7b;--c4:#ee7b74;--c5:#ae8cf0;--c6:#4cc0cc;
--preprocess:#a9c1f5;--encoder:#5d88e6;--injector:#efb62f;--prefill:#4fb374;--rest:#70767f;
--good:#63cb8a;--doubt:#efb62f;--bad:#f28b82}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 4px}h2{font-size:1.1rem;margin:0 0 4px}
h3{font-size:.95rem;margin:12px 0 4px}
p{margin:0 0 12px;color:var(--soft)}header p{margin:0}
.cards{columns:440px 2;column-gap:16px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin-top:16px;
break-inside:avoid}.cards section{margin:0 0 16px}.cards{margin-top:16px}
.scroll{overflow-x:auto;margin:0 -16px -4px;padding:0 16px 4px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{padding-left:0}
td.name,th.name{text-align:left}tr:last-child td{border-bottom:0}
.valid{color:var(--good)}.semi-valid{color:var(--doubt)}.invalid{color:var(--bad);font-weight:600}
.row{margin:10px 0}.head{display:flex;justify-content:space-between;gap:12px;font-size:.9rem}
.head span{overflow-wrap:anywhere}.head strong{white-space:nowrap;font-variant-numeric:tabular-nums}
small{color:var(--soft);font-size:.8rem;display:block}
.bar{position:relative;display:flex;gap:2px;height:16px;background:var(--track);border-radius:4px;overflow:hidden;
margin:3px 0}
.bar i{display:block;height:100%;min-width:1px}
.mark{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
.ridge{display:block;width:100%;height:40px;margin:3px 0;background:var(--track);border-radius:4px;fill:var(--c1)}
.ridge line{stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:.82rem;color:var(--soft);margin:4px 0 8px}
.legend span{display:inline-flex;align-items:center;gap:6px;overflow-wrap:anywhere}
.legend i{width:11px;height:11px;border-radius:3px;flex:none}
i.preprocess{background:var(--preprocess)}i.vision_encoder{background:var(--encoder)}
i.vision_injector{background:var(--injector)}i.prefill{background:var(--prefill)}i.rest{background:var(--rest)}
i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}i.c4{background:var(--c4)}
i.c5{background:var(--c5)}i.c6{background:var(--c6)}
.plot{display:block;width:100%;max-width:560px;height:auto;margin:0 auto;font-size:11px}
.plot .grid{stroke:var(--line)}.plot .tick,.plot .axis{fill:var(--soft)}.plot .dot{fill:var(--card);text-anchor:middle;
font-size:10px;font-weight:600}
.plot circle{stroke:var(--card);stroke-width:1.5}
circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}circle.c4{fill:var(--c4)}
circle.c5{fill:var(--c5)}circle.c6{fill:var(--c6)}
polyline{fill:none;stroke-width:2}polyline.c1{stroke:var(--c1)}polyline.c2{stroke:var(--c2)}polyline.c3{stroke:var(--c3)}
polyline.c4{stroke:var(--c4)}polyline.c5{stroke:var(--c5)}polyline.c6{stroke:var(--c6)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--track);border-radius:6px;padding:10px;margin:6px 0;
font:.8rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;margin:0;font-size:.88rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}ul{margin:4px 0;padding-left:20px}li{overflow-wrap:anywhere;font-size:.88rem}
"""

NOTES = {
    "ttft": "Image file and question in, first text out: the iteration with the median. Text in and out is tokenising, "
    "choosing and decoding.",
    "decode": "Every token behind an answer's first, on one logarithmic scale; the line is the median.",
    "size": "Up and to the left is better.",
    "memory": "Highest resident size, above that before the bundle was opened; the mark is the bundle's size.",
    "sweep": "The image's keys and values are given; only the text runs through the decoder.",
    "roofline": "A token reads every decoder matrix, the head, and the cache. A model that fits into the processor's "
    "caches may read faster than memory.",
}


def html_page(records: Sequence[Record]) -> str:
    """The whole page."""
    numbered = list(enumerate(records, 1))
    encoding = {(record.bundle.name, record.device) for record in records if record.samples.vision_encoder}
    numbered_main = [(n, r) for n, r in numbered if not is_sweep(r, encoding)]
    main = [record for _, record in numbered_main]
    cards = [
        card("Time to first token", charts.ttft_bars(main), NOTES["ttft"]),
        card("Time between tokens", charts.decode_rows(main), NOTES["decode"]),
        card("Size and speed", charts.size_and_speed(numbered_main), NOTES["size"]),
        card("Memory", charts.memory_bars(main), NOTES["memory"]),
        card("Larger images", charts.sweep_lines(records, "prefill", "Prefill")
             + charts.sweep_lines(records, "inter_token", "Each further token"), NOTES["sweep"]),
        card("Roofline of a token", charts.roofline_bars(main), NOTES["roofline"]),
        card("Can it be trusted?", trust(records), "Every answer is compared with the first to the same question."),
        card("Where it ran", hosts(records), ""),
    ]  # fmt: skip
    summary = card("Summary", f'<div class="scroll">{summary_table(numbered)}</div>', "Medians in milliseconds.")
    days = sorted({one_line(record.started[:10]) for record in records})
    devices = ", ".join(dict.fromkeys(one_line(record.device.name) for record in records))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>Latency of {escape(devices)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>Benchmark report</h1><p>{escape(devices)} · {escape(when)} · {len(records)} "
        f"{'run' if len(records) == 1 else 'runs'}</p></header>"
        f'{summary}<div class="cards">{"".join(cards)}</div>'
        f"{card('How to repeat it', commands(records), '')}</main></body></html>\n"
    )


def is_sweep(record: Record, encoding: Container[tuple[str, Device]]) -> bool:
    """Whether a record is one of a bundle's several image sizes, beside one (of `encoding`) that encodes the image."""
    return not record.samples.vision_encoder and (record.bundle.name, record.device) in encoding


def card(title: str, content: str, note: str) -> str:
    """A titled box, or nothing without content."""
    if not content:
        return ""
    small = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{small}{content}</section>"


def summary_table(numbered: Sequence[tuple[int, Record]]) -> str:
    """One row for each record."""
    with_accuracy = any(record.bundle.accuracy is not None for _, record in numbered)
    columns = ["bundle MB", *(["accuracy"] if with_accuracy else []), *TIMES, "load"]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = []
    for n, record in numbered:
        accuracy = record.bundle.accuracy
        cells = [number(record.bundle.bytes / 1e6) if record.bundle.bytes else "-"]
        cells += ["-" if accuracy is None else f"{accuracy:.2%}"] if with_accuracy else []
        cells += [*times(record), loading(record)[0]]
        rows.append(
            f'<tr><td>{n}</td><td class="name">{escape(label(record))}</td>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f'<td class="{record.verdict}">{record.verdict}</td></tr>'
        )
    return (
        f'<table><thead><tr><th></th><th class="name">bundle</th>{head}<th>verdict</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


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
            "memory": charts.megabytes(device.memory_bytes) if device.memory_bytes else None,
            "reads memory at": f"{device.read_bandwidth_gb_s} GB/s" if device.read_bandwidth_gb_s else None,
            "browser": device.browser,
            "versions": ", ".join(f"{name} {v}" for name, v in sorted(versions.items())) or None,
        }  # fmt: skip
        items = "".join(f"<dt>{name}</dt><dd>{escape(one_line(value))}</dd>" for name, value in facts.items() if value)
        parts.append(f"<h3>{escape(one_line(device.name))}</h3><dl>{items}</dl>")
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
