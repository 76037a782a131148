"""A record in one line."""

from statistics import median

from himix_edge.bench.record import Record
from himix_edge.bench.statistics import percentile
from himix_edge.errors import one_line

STAGES = ("preprocess", "vision_encoder", "vision_injector", "prefill")
TIMES = ("TTFT", "warm TTFT", "prefill", "token", "p99", "tokens/s", "memory MB")
LOADING = ("load", "preprocess", "encoder", "injector")


def middle(values: list[float]) -> float | None:
    """The median, or None of nothing."""
    return median(values) if values else None


def grown_bytes(record: Record) -> int | None:
    """Peak memory above what the process had before it opened the bundle."""
    memory = record.memory
    if memory.peak_bytes is None or memory.baseline_bytes is None:
        return None
    return max(0, memory.peak_bytes - memory.baseline_bytes)


def label(record: Record) -> str:
    """The bundle, the image tokens in front of its text, and whether they were kept from before."""
    tokens = record.settings.vision_tokens
    name = one_line(record.bundle.name)
    if tokens is None:
        return name
    return f"{name} N={tokens}{' kept' if record.settings.mode == 'warm-image' else ''}"


def times(record: Record) -> tuple[str, ...]:
    """The cells of `TIMES`; medians in ms."""
    samples, memory = record.samples, grown_bytes(record)
    token = middle(samples.inter_token)
    return (
        number(middle(samples.ttft)),
        number(middle(samples.warm_ttft)),
        number(middle(samples.prefill)),
        number(token),
        number(percentile(samples.inter_token, 99) if samples.inter_token else None),
        number(per_second(record)),
        number(None if memory is None else memory / 1e6),
    )


def per_second(record: Record) -> float | None:
    """Tokens a second; None where a token took no time that a clock can tell."""
    token = middle(record.samples.inter_token)
    return 1000 / token if token and token > 1e-6 else None


def loading(record: Record) -> tuple[str, ...]:
    """The cells of `LOADING`; medians in ms."""
    samples = record.samples
    stages = (samples.load or samples.load_warm, samples.preprocess, samples.vision_encoder, samples.vision_injector)
    return tuple(number(middle(values)) for values in stages)


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
