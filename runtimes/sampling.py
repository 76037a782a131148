"""Choosing the next token from logits."""

import math
import numbers
import operator
from typing import SupportsIndex

import numpy as np

from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Floats


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (Holtzman et al., arXiv 1904.09751)."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None):
        """Raises InputError for a temperature below 0 or infinite, top_p outside (0, 1], or a negative seed."""
        self.temperature, self.top_p = _number("temperature", temperature), _number("top_p", top_p)
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {temperature}; it must be 0 (greedy) or more, and finite")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {top_p}; it must be above 0 and at most 1")
        start = None if seed is None else whole_number("seed", seed, least=0)
        self.rng = np.random.default_rng(start) if self.temperature else None  # which takes as long as a small token

    def pick(self, logits: Floats) -> int:
        """The next token's id, from logits (V,). Raises InputError if the likeliest is NaN or infinite."""
        best = int(logits.argmax())  # a NaN, if there is one
        if not math.isfinite(logits[best]):
            raise InputError("the model answers with NaN or infinity; its weights or the image's keys are damaged")
        return best if self.rng is None else int(self.rng.choice(len(logits), p=self.probabilities(logits)))

    def probabilities(self, logits: Floats) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """float64 (V,): the smallest set of likeliest tokens that reaches top_p, renormalised."""
        behind = logits.astype(np.float64) - logits.max()  # before the division, which may overflow
        with np.errstate(over="ignore"):
            weights = np.exp(behind / self.temperature)
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= self.top_p]] = 0
        return np.asarray(weights / weights.sum())


def log_probability(logits: Floats, token: int) -> float:
    """Natural logarithm of a token's share, softmax of logits (V,): what the model says, whatever is drawn from it."""
    highest = logits.max()
    return float(logits[token] - highest) - math.log(np.exp(logits - highest).sum(dtype=np.float64))


def likeliest(logits: Floats, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens of logits (V,) and their `log_probability`, the likeliest first."""
    if not count:
        return ()
    found = np.argsort(-logits, kind="stable")[:count]
    total = log_probability(logits, int(found[0])) - float(logits[found[0]])
    return tuple((int(token), float(logits[token]) + total) for token in found)


def positive(name: str, value: object) -> float:
    """`value`, if it is a number above 0. Raises InputError naming it if not."""
    number = _number(name, value)
    if not number > 0:
        raise InputError(f"{name} is {_shown(value)}; it must be above 0")
    return number


def whole_number(name: str, value: SupportsIndex, least: int) -> int:
    """`value`, if it is a whole number of at least `least`. Raises InputError naming it if not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or number < least:
        raise InputError(f"{name} is {_shown(value)}; it must be a whole number, at least {least}")
    return number


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
            return float(value)
    except OverflowError:
        pass
    raise InputError(f"{name} is {_shown(value)}; it must be a number that a float can hold")


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to write thousands of digits
        return "a number of very many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
