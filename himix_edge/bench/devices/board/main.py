"""The measuring process of a board: `python3 runner.pyz facts|load|measure ...` prints lines as `bench.worker`.

`facts` is followed by the pip packages whose versions are asked for, `load` and `measure` by the job's file.

Prompts come as tokens and images as resized pixels (.npy), both made by the host: the engine's steps are what runs.
"""

import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from himix_edge.bench.bandwidth import read_bandwidth
from himix_edge.bench.cores import bind
from himix_edge.bench.host import device_facts, installed_version
from himix_edge.bench.job import Job, Question
from himix_edge.bench.measuring import Asked, Loaded, Measurement
from himix_edge.bench.probes import Probe, memory_facts, reset_peak_memory, resident_bytes
from himix_edge.config import ModelConfig
from himix_edge.errors import HimixError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from himix_edge.runtimes.engine import Engine, Floats


class BoardSubject:
    """See `Subject`. `kept` is (key, value, rotary position of the first text token)."""

    def __init__(self, engine: "Engine", job: Job, board: dict[str, Any]):
        self._engine, self._job = engine, job
        self._stop = set() if job.ignore_stop else set(board["stop_ids"])
        self._vanilla, self._no_image = board["vanilla"], board["no_image"]

    def ask(self, images: Sequence[str], kept: object, question: Question, first_only: bool) -> Asked:
        assert question.ids is not None
        pixels = [np.load(image) for image in images] if kept is None else []
        times: dict[str, float] = {}
        began = time.perf_counter()
        if kept is None:
            kept = self._look(pixels, times)
        assert isinstance(kept, tuple)
        key, value, position = kept
        used = key.shape[2]
        if self._job.depth_ids:
            self._engine.start(key, value, position)
            self._engine.step(np.array(self._job.depth_ids, np.int64))
            began = time.perf_counter()
        then = time.perf_counter()
        if not self._job.depth_ids:
            self._engine.start(key, value, position)
        logits = self._engine.step(np.array(question.ids, np.int64))
        times["prefill"] = (time.perf_counter() - then) * 1000
        tokens: list[int] = []
        inter_token: list[float] = []
        times["ttft"] = 0.0
        while True:
            token = int(logits.argmax())
            times["ttft"] = times["ttft"] or (time.perf_counter() - began) * 1000
            if token in self._stop:
                break
            tokens.append(token)
            if first_only or len(tokens) == self._job.new_tokens:
                break
            then = time.perf_counter()
            logits = self._engine.step(np.array([token], np.int64))
            inter_token.append((time.perf_counter() - then) * 1000)
        text = " ".join(map(str, tokens))  # the host has the tokenizer
        return Asked(times, inter_token, tokens, text, kept, len(question.ids), used)

    def _look(self, pixels: "list[NDArray[np.uint8]]", times: dict[str, float]) -> "tuple[Floats, Floats, int]":
        keys, values = [], []
        for image in pixels:
            then = time.perf_counter()
            features = self._engine.encode(image)
            between = time.perf_counter()
            key, value = self._engine.inject(features)
            keys.append(key)
            values.append(value)
            done = time.perf_counter()
            times["vision_encoder"] = times.get("vision_encoder", 0.0) + (between - then) * 1000
            times["vision_injector"] = times.get("vision_injector", 0.0) + (done - between) * 1000
        if not pixels:
            nothing = np.zeros(self._no_image, np.float32)
            return nothing, nothing, 0
        wanted = self._job.vision_tokens
        if wanted is not None:
            keys, values = ([tensors[0]] * -(-wanted // tensors[0].shape[2]) for tensors in (keys, values))
        key, value = (np.ascontiguousarray(np.concatenate(t, axis=2)[:, :, :wanted]) for t in (keys, values))
        return key, value, key.shape[2] if self._vanilla else 0


def main() -> None:
    """Entry point."""
    if sys.argv[1] == "facts":
        facts = {**device_facts(), "python": ".".join(map(str, sys.version_info[:3]))}
        found = {name: installed_version(name) for name in sorted({"numpy", *sys.argv[2:]})}
        say({"outcome": {"facts": facts, "versions": found, "reading": Probe().reading()}})
        return
    try:
        content = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
        job, board = Job.from_dict(content["job"]), content["board"]
        os.chdir(job.bundle)
        say({"outcome": load(job, board)[1] if sys.argv[1] == "load" else measure(job, board)})
    except HimixError as error:
        say({"error": str(error), "exit_code": error.exit_code})


def load(job: Job, board: dict[str, Any]) -> "tuple[Engine, Loaded]":
    """Open the bundle in this fresh process, its files forgotten by the kernel first and every hash checked."""
    threads = job.threads
    if job.cores is not None:
        bound = bind(job.cores)
        threads = threads or bound
    for name in board["modules"]:
        importlib.import_module(name)
    module = importlib.import_module(board["engine"])
    config = ModelConfig.from_dict(board["config"])
    for name in board["hashes"]:
        with open(name, "rb") as file:  # noqa: PTH123  the descriptor is what counts
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    reset_peak_memory()
    baseline, began = resident_bytes(), time.perf_counter()
    for name, digest in board["hashes"].items():
        if sha256(Path(name)) != digest:
            raise HimixError(f"{name}: changed on the board since it was sent; send the bundle again")
    files = {role: Path(name) for role, name in board["files"].items()}
    engine = module.load(files, config, board["capacity"], threads, board["activations"])
    return engine, {"load": (time.perf_counter() - began) * 1000, "baseline_bytes": baseline}


def measure(job: Job, board: dict[str, Any]) -> dict[str, object]:
    """Self-test and measure; what `bench.worker` reports, and this board's facts."""
    engine, loaded = load(job, board)
    passed = self_test(engine, job, board)
    subject = BoardSubject(engine, job, board)
    outcome = Measurement(subject, job, Probe(), lambda done, of: say({"progress": [done, of]})).run()
    outcome["samples"]["load"] = [loaded["load"]]
    memory = memory_facts(loaded["baseline_bytes"])
    versions = {name: found for name in ("numpy", *board["packages"]) if (found := installed_version(name))}
    facts = {**device_facts(), "read_bandwidth_gb_s": round(read_bandwidth(), 1)}
    return {
        **outcome, "memory": memory, "self_test_passed": passed, "provider": "cpu", "notes": [],
        "versions": versions, "facts": facts, "files_dropped": "posix_fadvise",
    }  # fmt: skip


def self_test(engine: "Engine", job: Job, board: dict[str, Any]) -> bool:
    """The bundle's self-test on pixels that the host resized."""
    test = board["selftest"]
    key, value = engine.inject(engine.encode(np.load(test["pixels"])))
    engine.start(key, value, key.shape[2] if board["vanilla"] else 0)
    logits = engine.step(np.array(test["ids"], np.int64))
    tokens: list[int] = []
    while len(tokens) < len(test["token_ids"]):
        token = int(logits.argmax())
        if token in board["stop_ids"]:
            break
        tokens.append(token)
        logits = engine.step(np.array([token], np.int64))
    return bool(tokens == test["token_ids"] or not test["decisive"])


def sha256(path: Path) -> str:
    """Hex digest; hashlib.file_digest is younger than some boards' Python."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def say(message: dict[str, object]) -> None:
    """One line to the host."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
