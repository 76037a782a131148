"""Choosing the next token from logits."""

import numpy as np

from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Floats


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (Holtzman et al., arXiv 1904.09751)."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None):
        """Raises InputError for a temperature below 0 or top_p outside (0, 1], or a negative seed."""
        if not temperature >= 0:
            raise InputError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p is {top_p}; it must be above 0 and at most 1")
        if seed is not None and seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more")
        self.temperature, self.top_p = temperature, top_p
        self.rng = np.random.default_rng(seed)

    def pick(self, logits: Floats) -> int:
        """The next token's id, from logits (V,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        return int(self.rng.choice(len(logits), p=self.probabilities(logits)))

    def probabilities(self, logits: Floats) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """float64 (V,): the smallest set of likeliest tokens that reaches top_p, renormalised."""
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= self.top_p]] = 0
        return np.asarray(weights / weights.sum())
