"""Two sets of records, metric by metric: is the second slower, and is that more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from himix_edge.bench.record import Record, Samples
from himix_edge.bench.statistics import mann_whitney, ratio_interval
from himix_edge.bench.summary import grown_bytes
from himix_edge.errors import InputError, one_line

METRICS = tuple(Samples.model_fields)
SIGNIFICANT = 0.01
MEASURABLE = 1e-6  # milliseconds


@dataclass(frozen=True)
class Difference:
    """One metric of one case, before and after: medians (ms; for memory MB), their ratio after / before, p-value.

    `ratio` is None where there was nothing before.
    `p` and `interval` (95%, of the ratio) are None where there are no repeated measurements.
    """

    case: str
    metric: str
    before: float
    after: float
    ratio: float | None
    interval: tuple[float, float] | None
    p: float | None
    regression: bool


def case_of(record: Record) -> str:
    """What has to be equal for two records to be comparable, as words."""
    bundle, s = record.bundle, record.settings
    words = [
        one_line(bundle.name),
        *(one_line(word) for word in (bundle.target, bundle.precision) if word not in bundle.name),
        s.mode,
    ]
    if s.vision_tokens is not None:
        words.append(f"N={s.vision_tokens}")
    settings = {
        "images": s.images if s.images > 1 else None,
        "questions": s.questions_per_image if s.questions_per_image > 1 else None,
        "depth": s.depth or None,
        "prompt": s.prompt_tokens,
        "threads": s.threads,
        "cores": s.cores,
    }
    return " ".join([*words, *(f"{name}={value}" for name, value in settings.items() if value is not None)])


def compare(before: Sequence[Record], after: Sequence[Record], threshold: float) -> tuple[list[Difference], list[str]]:
    """Every metric of every case that both sides have, and remarks on what cannot be compared as it is.

    Args:
        threshold: a regression is a median that grew by more than this share, significantly (p < 0.01).

    Raises:
        InputError: no case is on both sides.
    """
    old = {case_of(record): record for record in before}
    new = {case_of(record): record for record in after}
    shared = [case for case in old if case in new]
    if not shared:
        raise InputError(
            f"nothing to compare: the first has {one_line(', '.join(old))}; the second {one_line(', '.join(new))}"
        )
    remarks = [f"{case}: only in the first" for case in old if case not in new]
    remarks += [f"{case}: only in the second" for case in new if case not in old]
    found = []
    for case in shared:
        remarks += _remarks(case, old[case], new[case])
        found += _differences(case, old[case], new[case], threshold)
    return found, remarks


def _differences(case: str, old: Record, new: Record, threshold: float) -> list[Difference]:
    found = []
    for metric in METRICS:
        a, b = getattr(old.samples, metric), getattr(new.samples, metric)
        if not a or not b:
            continue
        before, after = median(a), median(b)
        ratio = after / before if before > MEASURABLE else None if after > MEASURABLE else 1.0
        repeated = min(len(a), len(b)) >= 8
        p = mann_whitney(a, b) if repeated else None
        interval = ratio_interval(a, b) if repeated and before > MEASURABLE else None
        worse = (ratio is None or ratio > 1 + threshold) and p is not None and p < SIGNIFICANT
        found.append(Difference(case, metric, before, after, ratio, interval, p, worse))
    for metric, a, b in (("peak memory, MB", _grown(old), _grown(new)), ("bundle, MB", _size(old), _size(new))):
        if a and b:
            found.append(Difference(case, metric, a, b, b / a, None, None, b / a > 1 + threshold))
    return found


def _grown(record: Record) -> float | None:
    grown = grown_bytes(record)
    return None if grown is None else grown / 1e6


def _size(record: Record) -> float | None:
    return None if record.bundle.bytes is None else record.bundle.bytes / 1e6


def _remarks(case: str, old: Record, new: Record) -> list[str]:
    remarks = [f"{case}: {which} is {r.verdict}: {one_line('; '.join(r.reasons))}"
               for which, r in (("the first", old), ("the second", new)) if r.verdict != "valid"]  # fmt: skip
    if old.device.name != new.device.name or old.device.cpu != new.device.cpu:
        remarks.append(f"{case}: another device ({one_line(old.device.name)}, {one_line(new.device.name)})")
    answers = {(a.prompt, *a.images): a.token_ids_sha256 for a in old.answers}
    changed = [a.prompt for a in new.answers if answers.get((a.prompt, *a.images), a.token_ids_sha256)
               != a.token_ids_sha256]  # fmt: skip
    if changed:
        remarks.append(f"{case}: {len(changed)} of {len(new.answers)} answers differ, e.g. to {one_line(changed[0])!r}")
    return remarks
