"""Time to first token: its one definition, for the record's readers, the report, its Markdown and a comparison.

TTFT is the median over all timed iterations of what `Samples.ttft` holds; p90 and p99 are of the same samples.
"""

from himix_edge.bench.record import Record
from himix_edge.bench.statistics import middle, percentile

STAGES = ("preprocess", "vision_encoder", "vision_injector", "prefill")
SHARES = (50, 90, 99)


def ttft(record: Record) -> float | None:
    """The median in milliseconds; None where no image, or no text alone, was timed up to its first token."""
    return middle(record.samples.ttft)


def ttft_percentiles(record: Record) -> tuple[float, ...] | None:
    """p50 (`ttft` itself), p90 and p99 in milliseconds."""
    values = record.samples.ttft
    if not values:
        return None
    return (middle(values) or 0.0, *(percentile(values, share) for share in SHARES[1:]))


def stages_of_median(record: Record) -> tuple[float, dict[str, float]]:
    """`ttft`, and the stages of the iteration that had it, so that they add up to it; milliseconds.

    Of an even number of iterations the median lies between two: each stage is the mean of theirs. "rest" is what
    belongs to no stage.
    """
    samples = record.samples
    count = len(samples.ttft)
    order = sorted(range(count), key=samples.ttft.__getitem__)
    chosen = order[(count - 1) // 2 : count // 2 + 1]
    parts = {}
    for stage in STAGES:
        values = getattr(samples, stage)
        each = len(values) // count  # prefill: one for each question about the image, the first the cold one
        parts[stage] = sum(values[at * each] for at in chosen) / len(chosen) if each else 0.0
    total = ttft(record) or 0.0
    return total, {**parts, "rest": max(0.0, total - sum(parts.values()))}
