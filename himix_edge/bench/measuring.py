"""The measuring loop, the same on every machine. Standard library only: boards run it too.

Every distinct question is asked once beforehand; its answer is the reference for every later run of the same question,
so that a fast wrong answer cannot pass. Then come the warm-ups and the timed iterations. Whatever the loop does for
itself (readings, bookkeeping) happens between questions, never inside of a measured time, and is counted: the
overhead is the measuring thread's processor time outside of the questions, plus the clock readings inside of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from himix_edge.bench.digest import token_digest
from himix_edge.bench.job import Item, Job, Question
from himix_edge.bench.power import PowerMeter, unplugged
from himix_edge.bench.probes import Probe, energy_used
from himix_edge.bench.sustained import WINDOW_S, Spell

IMAGE_STAGES = ("preprocess", "vision_encoder", "vision_injector")
READ_EVERY_S = 0.5
COOLING_S = 5.0
COOLING_TRIES = 60  # five minutes


@dataclass
class Asked:
    """One question answered: milliseconds of each stage, the answer's token ids, and the image to keep."""

    times: dict[str, float]
    inter_token: list[float]
    tokens: list[int]
    text: str
    kept: object
    prompt_tokens: int = 0
    vision_tokens: int = 0


class Subject(Protocol):
    """Something that answers questions and says how long each stage took."""

    def ask(self, images: Sequence[str], kept: object, question: Question, first_only: bool) -> Asked:
        """Answer greedily. `kept` is an earlier `Asked.kept` of the same images, or None: then they are encoded.

        `first_only`: end with the first non-empty text.
        """
        ...


@dataclass
class Run:
    """What was seen of one distinct question."""

    item: Item
    question: Question
    reference: list[int]
    text: str
    later: list[tuple[list[int], bool]] = field(default_factory=list)  # tokens, whether the answer was cut short

    def answer(self) -> dict[str, object]:
        """The record's entry; the reference is a run, too."""
        equal = sum(tokens == (self.reference[: len(tokens)] if cut else self.reference) for tokens, cut in self.later)
        return {
            "prompt": self.question.prompt,
            "images": [path.replace("\\", "/").rpartition("/")[2] for path in self.item.images],
            "text": self.text,
            "token_ids_sha256": token_digest(self.reference),
            "runs": 1 + len(self.later),
            "equal_runs": 1 + equal,
        }


class Measured(TypedDict):
    """What a measurement gives, under the record's names."""

    samples: dict[str, list[float]]
    readings: list[dict[str, object]]
    energy_j: float | None
    harness_overhead: float
    answers: list[dict[str, object]]
    vision_tokens: int
    throttled: bool
    sustained: dict[str, object] | None
    energy: list[dict[str, object]]
    unplugged: bool | None


class Loaded(TypedDict):
    """What opening a bundle gives: milliseconds, and the process's memory before."""

    load: float
    baseline_bytes: int | None


class Measurement:
    """One run of a job."""

    def __init__(self, subject: Subject, job: Job, probe: Probe, progress: Callable[[int, int], None]):
        self._subject, self._job, self._probe, self._progress = subject, job, probe, progress
        self._runs: dict[tuple[int, int], Run] = {}
        self._kept: dict[int, object] = {}
        self._samples: dict[str, list[float]] = {}
        self._readings: list[dict[str, object]] = []
        self._read_at = 0.0
        self._answering = self._waiting = 0.0  # seconds: of this thread's processor time, and of the wall clock
        self._clock_reads = 0
        self._vision_tokens = self._all = 0

    def run(self) -> Measured:
        """Samples, readings, answers, energy and overhead, under the record's names."""
        job = self._job
        self._all = job.warm_up + job.timed + int((job.sustained_s or 0) / WINDOW_S)
        self._read()
        for number, item in enumerate(job.items):
            for place, question in enumerate(item.questions):
                self._reference(number, item, place, question)
        throttled = self._probe.throttle_events()
        for iteration in range(job.warm_up):
            self._iterate(iteration % len(job.items), counted=False)
            self._progress(iteration + 1, self._all)
        self._read()
        self._answering = self._waiting = 0.0
        self._clock_reads = 0
        energy, began, worked = self._probe.energy_uj(), time.perf_counter(), time.thread_time()
        for iteration in range(job.timed):
            self._cool_down()
            self._iterate(iteration % len(job.items), counted=True)
            if time.perf_counter() - self._read_at > READ_EVERY_S:
                self._read()
            self._progress(job.warm_up + iteration + 1, self._all)
        wall = time.perf_counter() - began - self._waiting
        own = time.thread_time() - worked - self._answering + self._clock_reads * clock_cost()
        joules = None if self._waiting else energy_used(energy, self._probe)
        self._read()
        later = self._probe.throttle_events()
        sustained, used = self._sustain() if job.sustained_s else (None, [])
        return {
            "samples": self._samples,
            "readings": self._readings,
            "energy_j": joules,
            "harness_overhead": max(0.0, own) / wall,
            "answers": [run.answer() for run in self._runs.values()],
            "vision_tokens": self._vision_tokens,
            "throttled": later is not None and throttled is not None and later > throttled,
            "sustained": sustained,
            "energy": used,
            "unplugged": unplugged(self._probe.root),
        }

    def _sustain(self) -> tuple[dict[str, object], list[dict[str, object]]]:
        """The record's `sustained` and `energy`: it slows down here, which the timed iterations must not show."""
        job = self._job
        spell = Spell(job.sustained_s or 0.0, self._probe.reading, PowerMeter(self._probe.root))

        def ask(number: int) -> tuple[float, list[float], int]:
            item = number % len(job.items)
            kept = None if job.mode == "cold-image" else self._kept[item]
            asked = self._ask(item, 0, kept, counted=False)
            return asked.times["ttft"], asked.inter_token, len(asked.tokens)

        done = job.warm_up + job.timed
        spell.run(ask, lambda windows: self._progress(min(self._all, done + windows), self._all))
        used = spell.energy()
        return {"windows": spell.windows}, used

    def _reference(self, number: int, item: Item, place: int, question: Question) -> None:
        asked = self._subject.ask(item.images, self._kept.get(number), question, False)
        self._kept[number] = asked.kept
        self._vision_tokens = asked.vision_tokens
        self._runs[number, place] = Run(item, question, asked.tokens, asked.text)

    def _iterate(self, number: int, counted: bool) -> None:
        """The item's images with its first question, then the further questions on the images as they were kept.

        With a single question it is asked again up to its first text, for `warm_ttft`.
        """
        item = self._job.items[number]
        cold = self._job.mode == "cold-image"
        first = self._ask(number, 0, None if cold else self._kept[number], counted)
        for place in range(1, len(item.questions)):
            self._ask(number, place, first.kept, counted)
        if cold and len(item.questions) == 1:
            self._ask(number, 0, first.kept, counted, first_only=True)

    def _ask(self, number: int, place: int, kept: object, counted: bool, first_only: bool = False) -> Asked:
        run = self._runs[number, place]
        began = time.thread_time()
        asked = self._subject.ask(run.item.images, kept, run.question, first_only)
        self._answering += time.thread_time() - began
        self._clock_reads += 8 + 2 * len(asked.inter_token)
        run.later.append((asked.tokens, first_only))
        if counted:
            warm = bool(run.item.images) and kept is not None
            self._count({"warm_ttft" if warm else "ttft": [asked.times["ttft"]]})
            if not first_only:
                stages = (*(() if kept is not None or not run.item.images else IMAGE_STAGES), "prefill")
                self._count({name: [asked.times[name]] for name in stages if name in asked.times})
                self._count({"inter_token": asked.inter_token})
        return asked

    def _count(self, values: dict[str, list[float]]) -> None:
        for name, times in values.items():
            self._samples.setdefault(name, []).extend(times)

    def _read(self) -> None:
        self._readings.append(self._probe.reading())
        self._read_at = time.perf_counter()

    def _cool_down(self) -> None:
        """Wait until the processor is below the gate's temperature; that wait is not part of the run's time."""
        limit = self._job.max_temperature
        if limit is None:
            return
        began = time.perf_counter()
        for _ in range(COOLING_TRIES):
            now = self._probe.temperature()
            if now is None or now <= limit:
                break
            time.sleep(COOLING_S)
        waited = time.perf_counter() - began
        if waited > COOLING_S / 2:
            self._waiting += waited


def clock_cost() -> float:
    """Seconds that one reading of the clock takes here."""
    count = 10_000
    began = time.perf_counter()
    for _ in range(count):
        time.perf_counter()
    return (time.perf_counter() - began) / count
