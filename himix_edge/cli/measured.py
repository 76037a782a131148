"""What was measured of a bundle, for its page on the hub: `himix eval --json` and `himix bench --out`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from himix_edge.bench.record import Device, Record, read_records
from himix_edge.bench.statistics import middle
from himix_edge.bench.summary import grown_bytes, per_second
from himix_edge.bench.terms import settings
from himix_edge.bench.ttft import ttft_percentiles
from himix_edge.errors import InputError
from himix_edge.reading import read_json, validated
from himix_edge.units import number, size

Rows = list[tuple[str, str]]  # name, value; both may hold a file's text, which the page escapes
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]
MOST_SCORES = 100  # of a published task, whose parts have scores of their own


class Measure(BaseModel):
    """A published task's score: in the task's own unit, with its 95% interval, over so many questions."""

    model_config = ConfigDict(allow_inf_nan=False)

    value: float
    questions: int = Field(ge=0, le=1 << 31)
    interval: tuple[float, float]


class Evaluated(BaseModel):
    """What is read of the output of `himix eval --json`: `accuracy`, or a published task's `scores`."""

    model_config = ConfigDict(allow_inf_nan=False)

    manifest_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    adapter: str | None
    image_bits: int
    kv_bits: int
    task: Word
    split: Word
    asked: Count
    of: Count | None = None
    answers_by: Word
    accuracy: Share | None = None
    interval: tuple[Share, Share] | None = None
    scores: dict[Word, Measure] = Field(default={}, max_length=MOST_SCORES)


def accuracy_rows(file: Path, manifest_sha256: str) -> Rows:
    """The scores of an output of `himix eval --json`.

    Raises:
        InputError: something else, one of another bundle than that of `manifest_sha256`, of a bundle with an adapter,
            or without a score.
    """
    raw = read_json(file)
    if not isinstance(raw, dict) or "task" not in raw:
        raise InputError(f"{file}: not the accuracy that `himix eval --bundle BUNDLE --json` prints")
    if raw.get("manifest_sha256") is None:
        raise InputError(f"{file}: does not say which bundle was asked; run `himix eval --bundle BUNDLE --json` anew")
    found = validated(Evaluated, raw, str(file))
    _refuse_other(found.manifest_sha256, manifest_sha256, file, "himix eval --bundle BUNDLE --json")
    if found.adapter is not None:
        raise InputError(f"{file}: measured with an adapter, which is not in the bundle; run it without --adapter")
    task = f"{Path(found.task).name} ({found.split})"  # a data set's file: where it lies is nobody's affair
    how = "".join(f"; {words}" for words in _ways(found))
    rows = []
    if found.accuracy is not None and found.interval is not None:
        low, high = found.interval
        right = f"{found.accuracy:.2%} of {found.asked} questions answered exactly"
        rows.append((task, f"{right} (95% interval {low:.2%} to {high:.2%}){how}"))
    for name, score in found.scores.items():
        low, high = score.interval
        value = f"{score.value:.4g} over {score.questions} questions (95% interval {low:.4g} to {high:.4g}){how}"
        rows.append((f"{task}, {name}", value))
    if not rows:
        raise InputError(f"{file}: has no score; answers that are judged elsewhere have none here")
    return rows


def latency_tables(file: Path, manifest_sha256: str) -> list[Rows]:
    """One table for each record of a file of `himix bench --out`: the machine, the times, the settings.

    Raises:
        InputError: as `read_records`, and for a record of another bundle or with wrong answers.
    """
    records = read_records(file)
    for record in records:
        _refuse_other(record.bundle.manifest_sha256, manifest_sha256, file, "himix bench BUNDLE --out RECORD.json")
        if record.verdict == "invalid":
            raise InputError(f"{file}: a record is invalid ({'; '.join(record.reasons)}); its times mean nothing")
    return [_latency(record) for record in records]


def _latency(record: Record) -> Rows:
    samples, memory = record.samples, grown_bytes(record)
    quantiles, warm, speed = ttft_percentiles(record), middle(samples.warm_ttft), per_second(record)
    rows = [("machine", _machine(record.device))]
    if quantiles is not None:
        p50, p90, p99 = map(number, quantiles)
        rows.append(("TTFT", f"{p50} ms, the median of {len(samples.ttft)} (p90 {p90} ms, p99 {p99} ms)"))
    rows += [("warm TTFT", f"{number(warm)} ms, the median of {len(samples.warm_ttft)}")] if warm is not None else []
    rows += [("tokens a second", f"{number(speed)}, of the median token")] if speed is not None else []
    rows += [("memory", f"{size(memory)} at its peak, beside the runtime")] if memory is not None else []
    rows += settings(record).items()
    rows += [("cores", f"only the {record.settings.cores} ones")] if record.settings.cores else []
    rows.append(("measured", f"{record.started} by {record.harness}"))
    reasons = f": {'; '.join(record.reasons)}" if record.reasons else ""
    return [*rows, ("verdict", f"{record.verdict}{reasons}")]


def _machine(device: Device) -> str:
    """A computer's own name is its owner's affair; what a board or a phone is called is its model."""
    named = None if device.kind in ("computer", "other") else f"{device.name} ({device.kind})"
    cores = [(device.cores, "cores"), (device.threads, "threads")]
    counts: Sequence[str] = [f"{count} {what}" for count, what in cores if count is not None]
    known = [named, device.browser, device.cpu, device.architecture, *counts, device.os]
    return ", ".join(word for word in known if word) or device.kind


def _ways(found: Evaluated) -> list[str]:
    """What was not as usual."""
    ways = [f"the first {found.asked} of {found.of} questions"] if found.of and found.asked < found.of else []
    ways += [f"answers by {found.answers_by}"] if found.answers_by != "text" else []
    ways += [f"images' keys and values kept in {found.image_bits} bits"] if found.image_bits != 32 else []
    return ways + ([f"the cache in {found.kv_bits} bits"] if found.kv_bits != 32 else [])


def _refuse_other(found: str | None, wanted: str, file: Path, command: str) -> None:
    if found != wanted:
        of = f"of the bundle whose manifest is {found[:12]}..." if found else "of a bundle that it does not name"
        raise InputError(f"{file}: {of}, not of this one ({wanted[:12]}...); make it with `{command}`")
