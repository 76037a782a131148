"""A board without Python: a program there answers the questions, as a runtime's `ProgramBoard` says.

    PROGRAM --model FILE --pixels FILE --prompt IDS --position N --max-new-tokens N --runs N [--stop IDS] [--threads N]

answers `runs` times, each in a line of JSON with the fields of `Run`. FILE are the decoder's main file and the resized
image, raw uint8 (S, S, 3); IDS are numbers with commas.
"""

import os
import shlex
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field

from himix_edge.bench.devices.link import Link
from himix_edge.bench.devices.pushing import as_size, push, quoted
from himix_edge.bench.digest import token_digest
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Device, Milliseconds, Part, Record
from himix_edge.bench.running import Progress, make_record, now
from himix_edge.bundle import MANIFEST, all_files, bundle_text
from himix_edge.data import Dataset
from himix_edge.errors import InputError, last_line, one_line
from himix_edge.preprocess import load_image
from himix_edge.reading import parse_json, validated
from himix_edge.runtimes.registry import ProgramBoard, Runtime, find_runtime, runtime_names
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import Message, TextProcessor

ANSWER_S = 600.0  # for all runs of one question
Time = Annotated[float, Field(ge=0, le=1e9)]


class Run(Part):
    """A line of the program: milliseconds of each stage, the answer's tokens, what the process took (bytes)."""

    model_config = ConfigDict(extra="ignore")

    load: Time
    vision_encoder: Time
    vision_injector: Time
    start: Time
    prefill: Time
    inter_token: Milliseconds
    token_ids: list[Annotated[int, Field(ge=0, lt=1 << 31)]]
    vision_tokens: int = Field(ge=0)
    peak_rss: int = Field(ge=0)


def program_of(target: str) -> Runtime | None:
    """The target's record if a board runs it in a program, else None."""
    runtime = find_runtime(target) if target in runtime_names() else None
    return runtime if runtime is not None and isinstance(runtime.board, ProgramBoard) else None


def measure_program(
    runtime: Runtime,
    link: Link,
    folder: Path,
    plan: Plan,
    dataset: Dataset,
    command: str,
    progress: Progress,
    scratch: Path,
    there: str,
) -> Record:
    """Push the bundle and run each question's iterations in a process of its own.

    Raises InputError if the program is not there, the plan asks for what it cannot do, or it fails.
    """
    program = _program(runtime, link, plan)
    bundle = open_verified(folder)
    manifest, config = bundle.manifest, bundle.config
    assert config.vision is not None
    text = bundle_text(folder, manifest)
    job = plan.job(folder, dataset)
    questions = [(item.images[0], item.questions[0].prompt) for item in job.items]
    test = (str(folder / manifest.selftest.image), manifest.selftest.prompt)
    files = {record.path: folder / record.path for record in all_files(manifest)}
    files[MANIFEST] = folder / MANIFEST
    for number, (image, _) in enumerate([*questions, test]):
        pixels = load_image(image, config.vision.image_size, config.vision.resample)
        (scratch / f"{number}.rgb").write_bytes(np.ascontiguousarray(pixels).tobytes())
        files[f"pixels/{number}.rgb"] = scratch / f"{number}.rgb"
    push(link, files, there, lambda done, of: progress("sending", done, of))
    model = bundle.manifest.roles["decoder"][0].path
    position = manifest.vision_tokens if config.architecture == "vanilla" else 0
    stop = ",".join(map(str, sorted(text.stop_ids)))

    def answers(number: int, prompt: str, runs: int, new_tokens: int, to_stop: bool) -> list[Run]:
        ids = text.encode_chat([Message("user", prompt)])
        words = [program, "--model", model, "--pixels", f"pixels/{number}.rgb", "--prompt", ",".join(map(str, ids))]
        words += ["--position", str(position), "--max-new-tokens", str(new_tokens), "--runs", str(runs)]
        words += (["--stop", stop] if to_stop else []) + (["--threads", str(plan.threads)] if plan.threads else [])
        forget = f"dd if={shlex.quote(model)} iflag=nocache count=0 2>/dev/null; "  # coreutils' way to a cold file
        done = link.run(f"cd {quoted(there)} && {{ {forget}{shlex.join(words)}; }}", timeout=ANSWER_S)
        if done.code:
            raise InputError(f"{link.name}: {program}: {last_line(done.errors, 'it failed')}")
        where = f"{link.name}: {program}"
        lines = [line for line in done.output.splitlines() if line.startswith("{")]
        if len(lines) != runs:
            raise InputError(f"{where}: {len(lines)} answers to a question that was asked {runs} times")
        return [validated(Run, parse_json(line, where), where) for line in lines]

    started = now()
    expected = manifest.selftest.token_ids
    tested = answers(len(questions), manifest.selftest.prompt, 1, len(expected), True)[0].token_ids
    rounds = -(-plan.timed // len(questions))
    warm = 1 + -(-plan.warm_up // len(questions))  # the first is the reference
    found = []
    for number, (_, prompt) in enumerate(questions):
        progress("measuring", number, len(questions))
        found.append(answers(number, prompt, warm + rounds, plan.new_tokens, plan.natural))
    counted = [runs[warm + i] for i in range(rounds) for runs in found][: plan.timed]
    cold = link.run("dd if=/dev/null iflag=nocache count=0 2>/dev/null").code == 0
    samples = {
        "load" if cold else "load_warm": [runs[0].load for runs in found],
        "vision_encoder": [run.vision_encoder for run in counted],
        "vision_injector": [run.vision_injector for run in counted],
        "prefill": [run.start + run.prefill for run in counted],
        "ttft": [run.vision_encoder + run.vision_injector + run.start + run.prefill for run in counted],
        "inter_token": [time for run in counted for time in run.inter_token],
    }
    outcome = {
        "samples": samples, "readings": [], "energy_j": None, "harness_overhead": None,
        "notes": ["the board's load, clock and temperature were not watched"],
        "answers": [_answer(text, image, prompt, [run.token_ids for run in runs])
                    for (image, prompt), runs in zip(questions, found, strict=True)],
        "self_test_passed": manifest.selftest.accepts(tested), "provider": "cpu", "versions": {},
        "files_dropped": "dd iflag=nocache" if cold else None, "vision_tokens": counted[0].vision_tokens,
        "memory": {"peak_bytes": max(run.peak_rss for run in counted)},
    }  # fmt: skip
    return make_record(folder, plan, job, outcome, _device(link), command, started)


def _program(runtime: Runtime, link: Link, plan: Plan) -> str:
    assert isinstance(runtime.board, ProgramBoard)
    simple = Plan(timed=plan.timed, warm_up=plan.warm_up, threads=plan.threads, new_tokens=plan.new_tokens,
                  natural=plan.natural, loads=plan.loads)  # fmt: skip
    if plan != simple:
        raise InputError(
            f"{link.name}: the {runtime.title} program answers one question about one image at a time; only "
            "--iterations, --warm-up, --threads, --new-tokens and --natural can be set there"
        )
    board = runtime.board
    program = os.environ.get(board.variable, board.program)
    if link.run(f"command -v {shlex.quote(program)}").code:
        raise InputError(f"{link.name}: no {program} there; {board.how}, {board.variable} names it")
    return program


def _answer(text: TextProcessor, image: str, prompt: str, runs: list[list[int]]) -> dict[str, object]:
    return {
        "prompt": prompt, "images": [Path(image).name], "text": text.decode(runs[0]),
        "token_ids_sha256": token_digest(runs[0]), "runs": len(runs), "equal_runs": sum(r == runs[0] for r in runs),
    }  # fmt: skip


def _device(link: Link) -> Device:
    """What a shell without Python can tell."""
    asked = "uname -n; uname -sr; uname -m; getconf _NPROCESSORS_ONLN; grep -m1 -i 'model name' /proc/cpuinfo; echo"
    name, system, machine, threads, cpu = (link.run(asked).output.splitlines() + [""] * 5)[:5]
    memory = [*link.run("grep MemTotal /proc/meminfo").output.split(), "", ""]
    return Device(
        name=one_line(name) or link.name, kind="board", os=one_line(system) or None,
        architecture=one_line(machine) or None, cpu=one_line(cpu.partition(":")[2]) or None,
        threads=as_size(threads) or None, memory_bytes=(as_size(memory[1]) or 0) * 1024 or None,
    )  # fmt: skip
