"""A record in one line."""

from himix_edge.bench.record import Record
from himix_edge.bench.statistics import middle, percentile
from himix_edge.bench.ttft import ttft, ttft_percentiles
from himix_edge.errors import one_line
from himix_edge.units import number, size

TIMES = ("TTFT", "TTFT p90", "TTFT p99", "warm TTFT", "prefill", "token", "token p99", "tokens/s", "memory")
LOADING = ("load", "preprocess", "encoder", "injector")
RIGHT = ("as PyTorch", "accuracy")


def grown_bytes(record: Record) -> int | None:
    """Peak memory above what the process had before it opened the bundle."""
    memory = record.memory
    if memory.peak_bytes is None or memory.baseline_bytes is None:
        return None
    return max(0, memory.peak_bytes - memory.baseline_bytes)


def label(record: Record) -> str:
    """The bundle, the image tokens in front of its text, whether they were kept, the cores that were asked for."""
    tokens = record.settings.vision_tokens
    words = [one_line(record.bundle.name)]
    if tokens is not None:
        words.append(f"N={tokens}{' kept' if record.settings.mode == 'warm-image' else ''}")
    if record.settings.cores is not None:
        words.append(f"{record.settings.cores} cores")
    return " ".join([*words, *([f"x{record.settings.threads}"] if record.settings.threads else [])])


def times(record: Record) -> tuple[str, ...]:
    """The cells of `TIMES`; medians in ms but for the percentiles."""
    samples = record.samples
    _, p90, p99 = ttft_percentiles(record) or (None, None, None)
    return (
        number(ttft(record)),
        number(p90),
        number(p99),
        number(middle(samples.warm_ttft)),
        number(middle(samples.prefill)),
        number(middle(samples.inter_token)),
        number(percentile(samples.inter_token, 99) if samples.inter_token else None),
        number(per_second(record)),
        size(grown_bytes(record)),
    )


def right(record: Record) -> tuple[str, ...]:
    """The cells of `RIGHT`: answers of the gate's that equal the reference's, and what `himix eval` counted."""
    bundle = record.bundle
    gate = "-" if bundle.gate_asked is None else f"{bundle.gate_equal} of {bundle.gate_asked}"
    return gate, "-" if bundle.accuracy is None else f"{bundle.accuracy:.2%}"


def per_second(record: Record) -> float | None:
    """Tokens a second; None where a token took no time that a clock can tell."""
    token = middle(record.samples.inter_token)
    return 1000 / token if token and token > 1e-6 else None


def loading(record: Record) -> tuple[str, ...]:
    """The cells of `LOADING`; medians in ms."""
    samples = record.samples
    stages = (samples.load or samples.load_warm, samples.preprocess, samples.vision_encoder, samples.vision_injector)
    return tuple(number(middle(values)) for values in stages)
