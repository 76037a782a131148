"""The few statistics a comparison needs, with NumPy."""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray


def middle(values: Sequence[float]) -> float | None:
    """The median, the mean of the two in the middle of an even number; None of nothing."""
    return median(values) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the closest ranks; `share` in percent."""
    return float(np.percentile(values, share))


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value that two samples come from one distribution (Mann and Whitney, 1947).

    The normal approximation with tie and continuity corrections, which is good from about 8 values each.
    """
    both = np.concatenate([a, b])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ((ends - counts + 1 + ends) / 2)[inverse]
    n, m = len(a), len(b)
    u = ranks[:n].sum() - n * (n + 1) / 2
    total = n + m
    ties = float((counts.astype(float) ** 3 - counts).sum()) / (total * (total - 1)) if total > 1 else 0.0
    variance = n * m / 12 * (total + 1 - ties)
    if variance <= 0:
        return 1.0  # every value is the same
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def ratio_interval(a: Sequence[float], b: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of median(b) / median(a). Repeatable: its generator has a fixed seed."""
    rng = np.random.default_rng(0)
    first, second = (_bootstrap_medians(values, draws, rng) for values in (a, b))
    low, high = np.percentile(second / np.maximum(first, 1e-12), [2.5, 97.5])
    return float(low), float(high)


def _bootstrap_medians(values: Sequence[float], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The medians of resamples (draws), without making them: a median is one value, or two, of known rank.

    The k-th smallest of n draws from a sorted sample stands at place n * U, where U is the k-th smallest of n uniform
    numbers, which is distributed as Beta(k, n + 1 - k).
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    rank = (n + 1) // 2
    lower = rng.beta(rank, n + 1 - rank, draws)
    upper = lower if n % 2 else lower + (1 - lower) * rng.beta(1, n - rank, draws)
    places = (np.minimum((share * n).astype(np.int64), n - 1) for share in (lower, upper))
    one, other = (ordered[place] for place in places)
    return np.asarray((one + other) / 2)
