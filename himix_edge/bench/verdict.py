"""Is a run to be trusted? Invalid: the answers are wrong. Semi-valid: they are right, but the times may not be."""

from collections.abc import Sequence
from statistics import median
from typing import Any

OTHER_LOAD = 0.15  # processors kept busy by others during the run
SPREAD = 0.15  # of ttft or prefill: the 90th percentile of |time / that question's median - 1|
CLOCK_DROP = 0.10  # of the clock, from the run's first to its last third
OVERHEAD = 0.01
COMPARED_STAGES = ("ttft", "warm_ttft", "prefill")


def judge(outcome: dict[str, object], items: int, timed: int, max_temperature: float | None) -> tuple[str, list[str]]:
    """("valid" | "semi-valid" | "invalid", reasons).

    Args:
        outcome: what a measuring process reported.
        items, timed: how many items the job took turns with, over how many iterations.
        max_temperature: the temperature gate that was asked for, in degrees Celsius.
    """
    wrong = _wrong(outcome)
    if wrong:
        return "invalid", wrong
    doubts = _doubts(outcome, items, timed, max_temperature)
    return ("semi-valid" if doubts else "valid"), doubts


def _wrong(outcome: dict[str, Any]) -> list[str]:
    reasons = []
    if outcome.get("self_test_passed") is False:
        reasons.append("the bundle's self-test gives another answer on this device")
    for answer in outcome["answers"]:
        off = answer["runs"] - answer["equal_runs"]
        if off:
            reasons.append(f"{answer['prompt']!r}: {off} of {answer['runs']} runs answered differently from the first")
    return reasons


def _doubts(outcome: dict[str, Any], items: int, timed: int, max_temperature: float | None) -> list[str]:
    reasons = list(outcome.get("notes", ()))
    readings = outcome["readings"]
    loads = [reading["other_load"] for reading in readings if "other_load" in reading]
    if loads and median(loads) > OTHER_LOAD:
        reasons.append(f"other processes kept {median(loads):.2f} processors busy (limit {OTHER_LOAD})")
    if outcome.get("throttled"):
        reasons.append("the processor throttled itself during the run")
    clocks = [reading["cpu_clock_mhz"] for reading in readings if "cpu_clock_mhz" in reading]
    third = len(clocks) // 3
    if third and median(clocks[-third:]) < (1 - CLOCK_DROP) * median(clocks[:third]):
        reasons.append(f"the clock fell from {median(clocks[:third]):.0f} to {median(clocks[-third:]):.0f} MHz")
    if max_temperature is not None:
        hot = [reading["cpu_temperature_c"] for reading in readings if "cpu_temperature_c" in reading]
        if not hot:
            reasons.append("the temperature gate was asked for, but no sensor can be read here")
        elif max(hot) > max_temperature:
            reasons.append(f"the processor reached {max(hot):.0f} C (gate {max_temperature:.0f} C)")
    for stage in COMPARED_STAGES:
        samples = outcome["samples"].get(stage, [])
        off = spread(samples, items * max(1, len(samples) // timed))
        if off > SPREAD:
            reasons.append(f"{stage} varies too much: 1 in 10 is off by over {off:.0%} (limit {SPREAD:.0%})")
    overhead = outcome.get("harness_overhead")
    if overhead is not None and overhead > OVERHEAD:
        reasons.append(f"the harness itself took {overhead:.1%} of the time (limit {OVERHEAD:.0%})")
    return reasons


def spread(samples: Sequence[float], period: int) -> float:
    """90th percentile of how far, as a share, a sample is from its own question's median.

    `period`: sample i and sample i + period are of the same question.
    """
    off = []
    for first in range(period):
        own = samples[first::period]
        if len(own) > 1:
            middle = median(own)
            off += [abs(value / middle - 1) for value in own if middle]
    return sorted(off)[int(0.9 * (len(off) - 1))] if off else 0.0
