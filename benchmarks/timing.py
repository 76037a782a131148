"""Times a decoder's parts in a process of its own: thread pools that wait by spinning would slow each other.

Standard library only: the environments of other runtimes import it too.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

VISION, TEXT, DECODED = 728, 64, 32  # image tokens, prompt tokens, and tokens timed behind both
WARM_UPS, RUNS, SECONDS = 2, 3, 2.0  # each case's in one process; quick ones run for the seconds
Timings = dict[str, Callable[[], float]]


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def llava_style(prefill: Callable[[int], float], decode: Callable[[], float]) -> Timings:
    """A peer's cases: `prefill` takes a number of tokens, `decode` gives the time of one behind all of them."""
    return {
        "prefill 64": lambda: prefill(TEXT),
        "prefill 792": lambda: prefill(VISION + TEXT),
        "token at 792": decode,
    }


def report(cases: Timings) -> None:
    """Run every case and print its times as JSON: what `timed_apart` reads."""
    print(json.dumps({case: repeated(run) for case, run in cases.items()}))


def repeated(run: Callable[[], float]) -> list[float]:
    """What a case's runs give, without the first ones; one is enough of those that are long."""
    times: list[float] = []
    began = time.perf_counter()
    for _ in range(WARM_UPS):
        if time.perf_counter() - began < SECONDS:
            run()
    began = time.perf_counter()
    while len(times) < RUNS or time.perf_counter() - began < SECONDS:
        times.append(run())
    return times


def timed_apart(module: str, path: Path, python: str = sys.executable) -> dict[str, list[float]]:
    """Case -> times of `python -m MODULE PATH`, a new process that calls `report`."""
    output = subprocess.run([python, "-m", module, str(path)], check=True, capture_output=True, text=True).stdout
    timings: dict[str, list[float]] = json.loads(output.splitlines()[-1])
    return timings
