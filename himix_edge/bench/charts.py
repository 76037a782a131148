"""The report's plots: bars in HTML (their text stays readable at any width), lines and points in SVG.

Each function takes records and gives HTML, or "" if there is nothing to show. Colours are the page's CSS variables, so
light and dark need no second drawing. Every text of a record is escaped: records may come from anywhere.
"""

import math
from collections.abc import Sequence
from html import escape

from himix_edge.bench.record import Record
from himix_edge.bench.statistics import middle, percentile
from himix_edge.bench.summary import grown_bytes, label, per_second
from himix_edge.bench.ttft import stages_of_median
from himix_edge.errors import one_line
from himix_edge.units import MEGA, number, size

STAGE_NAMES = {"preprocess": "preprocess", "vision_encoder": "encoder", "vision_injector": "injector",
               "prefill": "prefill", "rest": "text in and out"}  # fmt: skip
COLORS = 6  # --c1 to --c6
BINS = 48
SHORTEST = 1e-6  # milliseconds; below that no clock can tell it from 0, which no logarithm has
WIDTH, HEIGHT = 380, 230  # of an SVG, in units that are pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 24, 30


def ttft_bars(records: Sequence[Record]) -> str:
    """Time to first token by stage, one bar for each record that encodes its image."""
    shown = [record for record in records if record.samples.ttft and record.samples.prefill]
    if not shown:
        return ""
    longest = max(stages_of_median(record)[0] for record in shown) or 1.0
    rows = []
    for record in shown:
        total, parts = stages_of_median(record)
        pieces = "".join(
            f'<i class="{name}" style="width:{100 * value / longest:.2f}%" '
            f'title="{STAGE_NAMES[name]}: {number(value)} ms"></i>'
            for name, value in parts.items()
            if value > 0
        )
        detail = " · ".join(f"{STAGE_NAMES[name]} {number(value)}" for name, value in parts.items() if value > 0)
        rows.append(bar_row(label(record), f"{number(total)} ms", pieces, detail))
    legend = "".join(f'<span><i class="{name}"></i>{words}</span>' for name, words in STAGE_NAMES.items())
    return f'<div class="legend">{legend}</div>{"".join(rows)}'


def decode_rows(records: Sequence[Record]) -> str:
    """How long each further token took: a histogram on a common logarithmic scale, with median, p90 and p99."""
    shown = [record for record in records if len(record.samples.inter_token) > 1]
    if not shown:
        return ""
    everything = [max(value, SHORTEST) for record in shown for value in record.samples.inter_token]
    low, high = math.log(min(everything)), math.log(max(everything))
    span = max(high - low, 1e-9)
    rows = []
    for record in shown:
        values = [max(value, SHORTEST) for value in record.samples.inter_token]
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, int((math.log(value) - low) / span * BINS))] += 1
        most = max(counts)
        bars = "".join(
            f'<rect x="{i * 10 + 1}" y="{40 - 38 * count / most:.1f}" width="8" height="{38 * count / most:.1f}"/>'
            for i, count in enumerate(counts)
            if count
        )
        middle_at = (math.log(percentile(values, 50)) - low) / span * BINS * 10
        mark = f'<line x1="{middle_at:.1f}" x2="{middle_at:.1f}" y1="0" y2="40"/>'
        svg = f'<svg class="ridge" viewBox="0 0 {BINS * 10} 40" preserveAspectRatio="none">{bars}{mark}</svg>'
        quantiles = " · ".join(f"p{share} {number(percentile(values, share))}" for share in (50, 90, 99))
        rows.append(row(label(record), f"{number(per_second(record))} tokens/s", svg, f"{quantiles} ms"))
    ends = f"<span>{number(math.exp(low))} ms</span><span>{number(math.exp(high))} ms</span>"
    return f'{"".join(rows)}<div class="ends">{ends}</div>'


def memory_bars(records: Sequence[Record]) -> str:
    """Peak memory above the empty runtime, with the bundle's size marked on it."""
    shown = [(record, grown) for record in records if (grown := grown_bytes(record)) is not None]
    if not shown:
        return ""
    longest = max(max(grown, record.bundle.bytes or 0) for record, grown in shown) or 1
    rows = []
    for record, grown in shown:
        stored = record.bundle.bytes
        mark = f'<b class="mark" style="left:{100 * stored / longest:.2f}%"></b>' if stored else ""
        piece = f'<i class="c1" style="width:{100 * grown / longest:.2f}%"></i>{mark}'
        detail = [f"bundle {size(stored)}"] if stored else []
        if record.memory.kv_cache_bytes:
            detail.append(f"keys and values at full context {size(record.memory.kv_cache_bytes)}")
        rows.append(bar_row(label(record), size(grown), piece, " · ".join(detail)))
    return "".join(rows)


def roofline_bars(records: Sequence[Record]) -> str:
    """How fast a token reads its weights and cache, against the memory's measured read bandwidth."""
    rows = []
    for record in records:
        bandwidth, token = record.device.read_bandwidth_gb_s, middle(record.samples.inter_token)
        needed = bytes_per_token(record)
        if bandwidth and token and needed and token > SHORTEST:
            reached = needed / token / 1e6  # bytes a millisecond are kB/s: 1e6 of them are 1 GB/s
            share = reached / bandwidth
            piece = f'<i class="c1" style="width:{min(100, 100 * share):.2f}%"></i>'
            detail = (
                f"{size(needed)} a token: at least {number(needed / bandwidth / 1e6)} ms at "
                f"{bandwidth:.0f} GB/s, measured {number(token)} ms"
            )
            rows.append(bar_row(label(record), f"{reached:.1f} GB/s, {share:.0%}", piece, detail))
    return "".join(rows)


def bytes_per_token(record: Record) -> int | None:
    """What one generated token reads at the middle of an answer: weights, keys and values."""
    weights, settings = record.bundle.weight_bytes_per_token, record.settings
    if weights is None:
        return None
    context = (settings.vision_tokens or 0) + settings.depth + (settings.prompt_tokens or 0)
    return weights + (record.bundle.kv_bytes_per_token or 0) * (context + (settings.new_tokens or 0) // 2)


def size_and_speed(records: Sequence[tuple[int, Record]]) -> str:
    """Points: bundle size against tokens a second, coloured by target, numbered as in the table."""
    shown = [(n, r, r.bundle.bytes / MEGA, speed) for n, r in records if r.bundle.bytes and (speed := per_second(r))]
    if not shown:
        return ""
    targets = list(dict.fromkeys(record.bundle.target for _, record, _, _ in shown))
    x = Axis([stored for *_, stored, _ in shown], LEFT, WIDTH - RIGHT)
    y = Axis([speed for *_, speed in shown], HEIGHT - BOTTOM, TOP)
    marks = []
    for n, record, stored, speed in shown:
        color = 1 + targets.index(record.bundle.target) % COLORS
        accuracy = "" if record.bundle.accuracy is None else f", {record.bundle.accuracy:.2%} right"
        words = f"{one_line(record.bundle.name)}: {size(stored * MEGA)}, {number(speed)} tokens/s{accuracy}"
        marks.append(
            f"<g><title>{escape(words)}</title>"
            f'<circle class="c{color}" cx="{x(stored):.1f}" cy="{y(speed):.1f}" r="8"/>'
            f'<text class="dot" x="{x(stored):.1f}" y="{y(speed) + 3.5:.1f}">{n}</text></g>'
        )
    legend = "".join(
        f'<span><i class="c{1 + i % COLORS}"></i>{escape(one_line(t))}</span>' for i, t in enumerate(targets)
    )
    return f'<div class="legend">{legend}</div>{plot(x, y, "bundle, MB", "tokens/s", "".join(marks))}'


def sweep_lines(records: Sequence[Record], metric: str, title: str) -> str:
    """A metric's median over the image's tokens, a line for each bundle that was measured at several sizes."""
    lines: dict[str, dict[int, float]] = {}
    for record in records:
        value, tokens = middle(getattr(record.samples, metric)), record.settings.vision_tokens
        if value is not None and tokens is not None and not record.samples.vision_encoder:
            lines.setdefault(one_line(record.bundle.name), {})[tokens] = value
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return ""
    x = Axis([tokens for points in lines.values() for tokens in points], LEFT, WIDTH - RIGHT, zero=True)
    y = Axis([v for points in lines.values() for v in points.values()], HEIGHT - BOTTOM, TOP, zero=True)
    marks = []
    for i, (name, points) in enumerate(lines.items()):
        color = f"c{1 + i % COLORS}"
        at = [(x(tokens), y(value), tokens, value) for tokens, value in sorted(points.items())]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in at)
        marks.append(f'<polyline class="{color}" points="{path}"/>')
        marks += [f'<circle class="{color}" cx="{px:.1f}" cy="{py:.1f}" r="3.5">'
                  f"<title>{escape(name)}, N={tokens}: {number(value)} ms</title></circle>"
                  for px, py, tokens, value in at]  # fmt: skip
    legend = "".join(f'<span><i class="c{1 + i % COLORS}"></i>{escape(name)}</span>' for i, name in enumerate(lines))
    return f'<h3>{title}</h3><div class="legend">{legend}</div>{plot(x, y, "image tokens N", "ms", "".join(marks))}'


class Axis:
    """Maps values to SVG units, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, zero: bool = False):
        low, high = (0.0 if zero else min(values)), max(values)
        if high < SHORTEST:  # no logarithm of it is needed to see that it is nothing
            low, high = 0.0, 1.0
        elif high - low <= 1e-6 * high:  # one value, or several that no label tells apart
            low, high = low * 0.9, (high * 1.1 or 1.0)
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 4.5)
        first, last = math.floor(low / step), math.ceil(high / step)
        self.ticks = [step * i for i in range(first, last + 1)]
        self._low, self._high, self._start, self._end = self.ticks[0], self.ticks[-1], start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def plot(x: Axis, y: Axis, x_title: str, y_title: str, marks: str) -> str:
    """Axes and grid around marks."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y(t) + 3.5:.1f}">{t:g}</text>'
        for t in y.ticks
    )
    grid += "".join(
        f'<text class="tick" text-anchor="middle" x="{x(t):.1f}" y="{bottom + 14}">{t:g}</text>' for t in x.ticks
    )
    titles = (
        f'<text class="axis" text-anchor="end" x="{right}" y="{HEIGHT - 3}">{x_title}</text>'
        f'<text class="axis" x="4" y="10">{y_title}</text>'
    )
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{grid}{titles}{marks}</svg>'


def bar_row(name: str, value: str, pieces: str, detail: str) -> str:
    """A named horizontal bar."""
    return row(name, value, f'<div class="bar">{pieces}</div>', detail)


def row(name: str, value: str, drawing: str, detail: str) -> str:
    """A name and a value above a drawing, small print below it."""
    return (
        f'<div class="row"><div class="head"><span>{escape(name)}</span><strong>{escape(value)}</strong></div>'
        f"{drawing}<small>{escape(detail)}</small></div>"
    )
