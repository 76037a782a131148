"""Device x target: the part of a report that sets several devices side by side, in HTML and as rows."""

from collections.abc import Callable, Sequence
from html import escape

from himix_edge.bench.charts import COLORS, bar_row
from himix_edge.bench.comparable import Comparison, Refused
from himix_edge.bench.record import Record
from himix_edge.bench.summary import grown_bytes, label, per_second
from himix_edge.bench.ttft import ttft
from himix_edge.units import number, size

Value = Callable[[Record], float | None]
METRICS: dict[str, tuple[Value, Callable[[float | None], str], bool]] = {  # value, its words, whether less is better
    "TTFT, ms": (ttft, number, True),
    "tokens/s": (per_second, number, False),
    "memory": (grown_bytes, size, True),
}


def matrix(comparison: Comparison, metric: str) -> list[list[tuple[str, bool]]]:
    """Rows of (text, whether it is the best of its row), a row for each device, a cell for each target."""
    value_of, words, least = METRICS[metric]
    rows = []
    for device in comparison.devices:
        records = [comparison.cells.get((device, target)) for target in comparison.targets]
        values = [None if record is None else value_of(record) for record in records]
        known = [value for value in values if value is not None]
        best = (min if least else max)(known) if len(known) > 1 else None
        rows.append([(words(value) + _mark(record), value is not None and value == best)
                     for record, value in zip(records, values, strict=True)])  # fmt: skip
    return rows


def _mark(record: Record | None) -> str:
    return "*" if record is not None and record.verdict != "valid" else ""


def comparison_html(comparison: Comparison) -> str:
    """Tables and bars of one model."""
    tables = "".join(_table(comparison, metric) for metric in METRICS)
    note = "<small>* semi-valid. Bold: the best of a device.</small>"
    bars = _bars(comparison, "TTFT, ms") + _bars(comparison, "tokens/s")
    return f'{tables}{note}<div class="cards">{bars}</div>'


def refused_html(refused: Sequence[Refused]) -> str:
    """Which records are in no such table, and why."""
    items = "".join(f"<li>{escape(label(r.record))} on {escape(r.device)}: {escape(r.reason)}</li>" for r in refused)
    return f"<ul>{items}</ul>" if items else ""


def _table(comparison: Comparison, metric: str) -> str:
    mark = ' class="best"'
    head = "".join(f"<th>{escape(target)}</th>" for target in comparison.targets)
    rows = "".join(
        f'<tr><td class="name">{escape(device)}</td>'
        + "".join(
            f'<td data-of="{escape(target)}"{mark if best else ""}>{escape(text)}</td>'
            for target, (text, best) in zip(comparison.targets, cells, strict=True)
        )
        + "</tr>"
        for device, cells in zip(comparison.devices, matrix(comparison, metric), strict=True)
    )
    return (
        f'<h3>{escape(metric)}</h3><div class="scroll"><table class="matrix"><thead><tr><th class="name">device</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _bars(comparison: Comparison, metric: str) -> str:
    """A group of bars for each device, a colour for each target, all on one scale."""
    value_of, words, _ = METRICS[metric]
    known = {place: value for place, r in comparison.cells.items() if (value := value_of(r)) is not None}
    longest = max(known.values(), default=0) or 1.0
    groups = []
    colors = {target: 1 + i % COLORS for i, target in enumerate(comparison.targets)}
    for device in comparison.devices:
        its = {target: known[device, target] for target in comparison.targets if (device, target) in known}
        rows = [
            bar_row(target, words(v), f'<i class="c{colors[target]}" style="width:{100 * v / longest:.2f}%"></i>', "")
            for target, v in its.items()
        ]
        groups += [f"<h4>{escape(device)}</h4>{''.join(rows)}"] if rows else []
    return f'<div class="block"><h3>{escape(metric)}</h3>{"".join(groups)}</div>' if groups else ""
