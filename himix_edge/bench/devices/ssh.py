"""A Linux board over SSH. What it needs: a POSIX shell, Python 3.10 or newer, NumPy and the bundle's runtime."""

import contextlib
import json
import os
import secrets
import shlex
import tempfile
import time
from pathlib import Path

from himix_edge.bench.devices.board_job import BoardJob, board_job
from himix_edge.bench.devices.link import LinkLost, Result
from himix_edge.bench.devices.program_board import measure_program, program_of
from himix_edge.bench.devices.pushing import as_size, free_bytes, push, quoted, refuse_tiles
from himix_edge.bench.devices.remote_job import clean_script, look_script, start_script, stop_script
from himix_edge.bench.devices.runner import board_runtimes, build_runner
from himix_edge.bench.devices.ssh_link import SshLink, parse_address
from himix_edge.bench.outcome import BoardFacts, BoardLoad, BoardOutcome, board_outcome, steps
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Answer, Record
from himix_edge.bench.running import Progress, make_record, now
from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import HimixError, InputError, last_line
from himix_edge.files import sha256

FOLDER = "~/.cache/himix-bench"
SILENCE_S = 90.0  # how long a board may be out of reach while it measures; a small one restarts in that time
STUCK_S = 1800.0  # without a further iteration
FACTS_S = 120.0  # a slow board imports NumPy


class BoardLacks(HimixError):
    """The board's Python lacks a package."""

    exit_code = 4

    def __init__(self, where: str, package: str):
        super().__init__(f"{where}: {package} is not installed for its Python; there: pip install {package}")


class SshDevice:
    """See `BenchDevice`. `address` is USER@HOST[:PORT]."""

    def __init__(self, address: str):
        self.link = SshLink(*parse_address(address))
        self._python = shlex.quote(os.environ.get("HIMIX_BOARD_PYTHON", "python3"))
        self._brought: list[str] = []
        self._reached = False

    def status(self) -> dict[str, object]:
        found = self._facts()
        df = self.link.run('df -Pk "$HOME" | tail -n 1').output
        facts = found.facts
        return {
            "device": f"ssh://{self.link.name}", "name": facts.name, "os": facts.os, "cpu": facts.cpu or "",
            "memory_bytes": facts.memory_bytes, "free_bytes": free_bytes(df), "python": facts.python,
            "runtimes": {name: known for name, known in found.versions.items() if known and name != "numpy"},
            **found.reading.model_dump(exclude_none=True),
        }  # fmt: skip

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        refuse_tiles(folder)
        with tempfile.TemporaryDirectory() as scratch:
            if (runtime := program_of(read_manifest(folder).target)) is not None:
                there = f"{FOLDER}/{runtime.name}-{sha256(folder / MANIFEST)[:16]}"
                self._bring(there)
                self._reached = True
                return measure_program(
                    runtime, self.link, folder, plan, dataset, command, progress, Path(scratch), there
                )
            board = board_job(folder, plan, dataset, Path(scratch))
            if not self._facts().versions.get(board.package):
                raise BoardLacks(self.link.name, board.package)
            there = f"{FOLDER}/{board.key}"
            self._bring(there)
            push(self.link, board.files, there, lambda done, of: progress("sending", done, of))
            started = now()
            loads, outcome = self._run(board, there, progress)
        found = outcome.model_dump(exclude_none=True, exclude={"facts"})
        found["samples"]["load"] = [*loads, *outcome.samples.load]
        found["answers"] = [self._answer(answer, board) for answer in outcome.answers]
        found.setdefault("energy_j", None)
        return make_record(folder, plan, board.job, found, outcome.facts, command, started)

    def _answer(self, answer: Answer, board: BoardJob) -> dict[str, object]:
        """An answer of the board with its tokens as text and its images' own names."""
        tokens = [as_size(token) for token in (answer.text or "").split()]
        known = all(token is not None and token < 1 << 31 for token in tokens)
        if not known or set(answer.images) - set(board.image_names):
            raise InputError(f"{self.link.name}: an answer of other tokens or images than were asked for")
        text = board.text_of(answer.text or "")
        return {**answer.model_dump(), "text": text, "images": [board.image_names[name] for name in answer.images]}

    def close(self) -> None:
        if self._reached:
            with contextlib.suppress(InputError):  # out of reach: what is there stays for the next time
                for there in list(self._brought):
                    self.link.run(f"cd {quoted(there)} 2>/dev/null && {stop_script()}")
                    if not self.link.run(f"find {quoted(there)} -name '*.part' 2>/dev/null | head -n 1").output.strip():
                        self.link.run(clean_script(quoted(FOLDER), quoted(there)))
        self.link.close()

    def _bring(self, there: str) -> None:
        if there not in self._brought:
            self._brought.append(there)

    def _facts(self) -> BoardFacts:
        found = self.link.run(f"command -v {self._python}")
        self._reached = True
        if found.code:
            raise InputError(
                f"{self.link.name}: no {self._python} there; install Python 3.10+, or name one with HIMIX_BOARD_PYTHON"
            )
        with tempfile.TemporaryDirectory() as scratch:
            runner = Path(scratch) / "runner.pyz"
            build_runner(runner)
            push(self.link, {"runner.pyz": runner}, f"{FOLDER}/runner", lambda done, of: None)
        self._bring(f"{FOLDER}/runner")
        packages = shlex.join(dict.fromkeys(runtime.packages[0] for runtime in board_runtimes()))
        asked = f"{self._python} {quoted(FOLDER, 'runner/runner.pyz')} facts {packages}"
        result = self.link.run(asked, timeout=FACTS_S)
        for line in result.output.splitlines():
            if (facts := board_outcome(BoardFacts, line, self.link.name)) is not None:
                return facts
        if "No module named 'numpy'" in result.errors:
            raise BoardLacks(self.link.name, "numpy")
        said = last_line(result.errors, f"exit code {result.code}")
        raise InputError(f"{self.link.name}: {self._python} cannot run the measuring program: {said}")

    def _run(self, board: BoardJob, there: str, progress: Progress) -> tuple[list[float], BoardOutcome]:
        """Start the measuring processes so that they outlive this connection, and wait for them."""
        runner, job = quoted(FOLDER, "runner/runner.pyz"), quoted(there, "job.json")
        steps = ["load"] * (board.loads - 1) + ["measure"]
        mark = f"started-{secrets.token_hex(8)}"  # a start whose confirmation was lost is not started again
        start = start_script(mark, [f"{self._python} {runner} {step} {job}" for step in steps])
        self._patiently(f"cd {quoted(there)} && {start}", progress)
        self._wait(there, progress)
        loads: list[float] = []
        outcome = None
        for line in self._patiently(f"cat {quoted(there, 'out')}", progress).output.splitlines():
            if len(loads) < board.loads - 1:
                load = board_outcome(BoardLoad, line, self.link.name)
                loads += [load.load] if load else []
            else:
                outcome = board_outcome(BoardOutcome, line, self.link.name) or outcome
        if outcome is None:
            raise InputError(f"{self.link.name}: the measuring process ended early: {self._last_error(there)}")
        return loads, outcome

    def _wait(self, there: str, progress: Progress) -> None:
        """Until the job there has ended.

        Raises:
            LinkLost: the board is out of reach.
            InputError: the job is gone, as after a restart, or makes no progress for half an hour.
        """
        news, done = time.monotonic(), -1
        while True:
            said = self._patiently(f"cd {quoted(there)} && {look_script()}", progress)
            state, *lines = said.output.strip().splitlines() or [f"nothing: {last_line(said.errors)}"]
            if state == "ended":
                return
            if state != "running":
                raise InputError(
                    f"{self.link.name}: the measuring process is gone; did the board restart, or run out of memory? "
                    f"({self._last_error(there) if state == 'gone' else state})"
                )
            try:
                at = steps(json.loads(lines[0])) if lines else None
            except (ValueError, RecursionError):
                at = None
            if at is not None and at[0] > done:
                news, done = time.monotonic(), at[0]
                progress("measuring", *at)
            if time.monotonic() - news > STUCK_S:
                raise InputError(f"{self.link.name}: no progress there for {STUCK_S / 60:.0f} minutes; it was stopped")

    def _last_error(self, there: str) -> str:
        return last_line(self.link.run(f"tail -n 1 {quoted(there, 'err')} | head -c 2000").output, "it says nothing")

    def _patiently(self, command: str, progress: Progress) -> Result:
        """Run a command there; a link that is lost may come back for a minute and a half, while the board goes on."""
        heard = time.monotonic()
        while True:
            try:
                return self.link.run(command)
            except LinkLost:
                if time.monotonic() - heard > SILENCE_S:
                    raise
                progress("waiting for the link", 0, 1)
                time.sleep(2)
