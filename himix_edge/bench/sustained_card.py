"""What a record says of minutes without a pause: speed over time with the onset of throttling, and energy."""

from collections.abc import Sequence
from html import escape

from himix_edge.bench.charts import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, plot, row
from himix_edge.bench.record import Energy, Record
from himix_edge.bench.summary import label
from himix_edge.bench.sustained import cool_speed, onset
from himix_edge.errors import one_line, printable
from himix_edge.units import number


def speeds(record: Record) -> list[tuple[float, float]]:
    """(minute at its middle, tokens a second) of each window that tells its speed."""
    windows = record.sustained.windows if record.sustained else []
    return [((w.at_s + w.seconds / 2) / 60, w.tokens_per_s) for w in windows if w.tokens_per_s]


def sustained_plot(records: Sequence[Record]) -> str:
    """Tokens a second over minutes, a line for each record; a mark where it begins to throttle."""
    lines = [(record, points) for record in records if (points := speeds(record))]
    if not lines:
        return ""
    x = Axis([minute for _, points in lines for minute, _ in points], LEFT, WIDTH - RIGHT, zero=True)
    y = Axis([speed for _, points in lines for _, speed in points], HEIGHT - BOTTOM, TOP, zero=True)
    marks, names, said = [], [], []
    for i, (record, points) in enumerate(lines):
        color = f"c{1 + i % COLORS}"
        path = " ".join(f"{x(minute):.1f},{y(speed):.1f}" for minute, speed in points)
        marks.append(f'<polyline class="{color}" points="{path}"/>')
        first = onset([speed for _, speed in points])
        if first is not None:
            minute, speed = points[first]
            marks.append(f'<circle class="{color}" cx="{x(minute):.1f}" cy="{y(speed):.1f}" r="5">'
                         f"<title>slower from minute {minute:.1f} on</title></circle>")  # fmt: skip
        names.append(f'<span><i class="{color}"></i>{escape(label(record))}</span>')
        said.append(f"<li>{escape(label(record))}: {escape(in_words(record)[0])}</li>")
    drawing = plot(x, y, "minutes", "tokens/s", "".join(marks))
    return f'<div class="legend">{"".join(names)}</div>{drawing}<ul>{"".join(said)}</ul>'


def energy_rows(records: Sequence[Record]) -> str:
    """Joules a token, joules and watts of every source; why one is not readable."""
    rows = [
        row(label(record), f"{number(entry.joules_per_token)} J a token", "", f"{named(entry)}: {of_all(entry)}")
        for record in records
        for entry in record.energy
        if entry.joules is not None
    ]
    missing = dict.fromkeys(named(entry) for record in records for entry in record.energy if entry.joules is None)
    reasons = f"<ul>{''.join(f'<li>{escape(words)}</li>' for words in missing)}</ul>" if missing else ""
    return "".join(rows) + reasons


def named(entry: Energy) -> str:
    """A source and what it measures, or why it tells nothing."""
    words = [one_line(entry.source), *([one_line(entry.what)] if entry.what else [])]
    reason = f" ({printable(entry.reason)})" if entry.joules is None and entry.reason else ""
    return ", ".join(words) + reason


def of_all(entry: Energy) -> str:
    """Joules and watts of the whole time."""
    watts = entry.joules / entry.seconds if entry.joules is not None and entry.seconds else None
    return f"{number(entry.joules)} J, {number(watts)} W"


def in_words(record: Record) -> list[str]:
    """Lines for people: the speed when cool and at the end, the onset of throttling, energy of a token."""
    points = speeds(record)
    if not points:
        return []
    values = [speed for _, speed in points]
    first = onset(values)
    slower = "no throttling" if first is None else f"slower from minute {points[first][0]:.1f} on"
    lines = [f"{number(cool_speed(values))} tokens/s at first, {number(cool_speed(values[::-1]))} at the end: {slower}"]
    known = [entry for entry in record.energy if entry.joules_per_token is not None]
    lines += [f"{number(entry.joules_per_token)} J a token by {named(entry)}" for entry in known]
    if record.energy and not known:
        lines.append("energy: not readable; the record says why for each source")
    return lines
