"""What a task's scoring gives: named numbers with 95% confidence intervals."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from himix_edge.evaluation.exact import interval


@dataclass(frozen=True)
class Measure:
    """A number over `questions` questions (or images, or sentences), and its 95% interval."""

    name: str
    value: float
    questions: int
    interval: tuple[float, float]


def mean(name: str, scores: Sequence[float], scale: float = 1.0) -> Measure:
    """`scale` times the mean of scores from 0 to 1.

    The interval is Wilson's for a share of the same size. For scores between 0 and 1 it is at least as wide as it has
    to be (their variance is at most a share's), and unlike the normal one it has a width when all scores are the same.
    """
    total = math.fsum(scores)
    low, high = interval(total, len(scores))
    return Measure(name, scale * total / max(1, len(scores)), len(scores), (scale * low, scale * high))


def means_by(kinds: Sequence[str], scores: Sequence[float]) -> list[Measure]:
    """The mean of each kind's scores, the most frequent kind first."""
    of_kind: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        of_kind[kind].append(score)
    return [mean(kind, of_kind[kind]) for kind in sorted(of_kind, key=lambda kind: -len(of_kind[kind]))]


def total(name: str, parts: Sequence[Measure], scale: float = 1.0) -> Measure:
    """`scale` times the sum of independent measures, whose intervals recover their variances (Zou and Donner, 2008)."""
    value = math.fsum(part.value for part in parts)
    below = math.hypot(*(part.value - part.interval[0] for part in parts))
    above = math.hypot(*(part.interval[1] - part.value for part in parts))
    bounds = (scale * (value - below), scale * (value + above))
    return Measure(name, scale * value, sum(part.questions for part in parts), bounds)
