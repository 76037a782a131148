"""Questions without a pause for minutes: how fast a device still is when it is warm, and from when on it is slower.

Standard library only: boards run it too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from himix_edge.bench.power import PowerMeter

WINDOW_S = 10.0
COOL_WINDOWS = 3  # the first ones, whose median is the speed of the cool device
SLOWER = 0.10  # of that speed, below which a device is said to throttle
LASTING = 3  # windows in a row; a single slow one is somebody else's work


@dataclass
class _Window:
    at: float
    ttfts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    tokens: int = 0


class Spell:
    """Asks until the time is over, and keeps what each window of ten seconds gave."""

    def __init__(self, seconds: float, reading: Callable[[], dict[str, object]], meter: PowerMeter):
        self._seconds, self._reading, self._meter = seconds, reading, meter
        self.windows: list[dict[str, object]] = []
        self._tokens = 0

    def run(self, ask: Callable[[int], tuple[float, Sequence[float], int]], progress: Callable[[int], None]) -> None:
        """Call `ask` with 0, 1, 2, ...: it answers one question, and gives (TTFT ms, inter-token ms, tokens)."""
        self._meter.start()
        began, window, number = time.perf_counter(), _Window(0.0), 0
        now = 0.0
        while now < self._seconds:
            ttft, steps, tokens = ask(number)
            number += 1
            window.ttfts.append(ttft)
            window.steps += steps
            window.tokens += tokens
            now = time.perf_counter() - began
            if now - window.at >= WINDOW_S or now >= self._seconds:
                self._close(window, now)
                window = _Window(now)
                progress(len(self.windows))

    def energy(self) -> list[dict[str, object]]:
        """What the power sources told. Call it right after `run`."""
        return self._meter.stop(self._tokens)

    def _close(self, window: _Window, now: float) -> None:
        self._tokens += window.tokens
        found: dict[str, object] = {
            "at_s": round(window.at, 3), "seconds": round(now - window.at, 3), "answers": len(window.ttfts),
            "tokens": window.tokens, "ttft_ms": median(window.ttfts), "reading": self._reading(),
        }  # fmt: skip
        if sum(window.steps) > 0:
            found["tokens_per_s"] = 1000 * len(window.steps) / sum(window.steps)
        self.windows.append(found)


def cool_speed(speeds: Sequence[float]) -> float | None:
    """Tokens a second of the cool device: the median of the first windows."""
    return median(speeds[:COOL_WINDOWS]) if speeds else None


def onset(speeds: Sequence[float]) -> int | None:
    """The number of the first window from which on three in a row are a tenth slower than the first ones; else None."""
    cool = cool_speed(speeds)
    if cool is None:
        return None
    slow = [speed < (1 - SLOWER) * cool for speed in speeds]
    return next((i for i in range(COOL_WINDOWS, len(slow) - LASTING + 1) if all(slow[i : i + LASTING])), None)
