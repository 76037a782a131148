"""A Linux board over SSH. What it needs: a POSIX shell, Python 3.10 or newer, NumPy and the bundle's runtime."""

import json
import os
import secrets
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import HimixError, InputError
from himix_edge.files import sha256
from himix_edge.runtimes.bench.plan import Plan
from himix_edge.runtimes.bench.record import Device, Record
from himix_edge.runtimes.bench.running import Progress, follow, make_record, now
from himix_edge.runtimes.devices.board_job import BoardJob, board_job
from himix_edge.runtimes.devices.executorch_board import measure_executorch
from himix_edge.runtimes.devices.link import LinkLost, Result
from himix_edge.runtimes.devices.pushing import push, quoted
from himix_edge.runtimes.devices.runner import build_runner
from himix_edge.runtimes.devices.ssh_link import SshLink

FOLDER = "~/.cache/himix-bench"
SILENCE_S = 180.0  # how long a board may be out of reach while it measures
POLL_S = 5


class BoardLacks(HimixError):
    """The board's Python lacks a package."""

    exit_code = 4

    def __init__(self, where: str, package: str):
        super().__init__(f"{where}: {package} is not installed for its Python; there: pip install {package}")


class SshDevice:
    """See `BenchDevice`. `address` is USER@HOST[:PORT]."""

    def __init__(self, address: str):
        host, _, port = address.rstrip("/").rpartition(":")
        if not host or address.endswith("]"):
            host, port = address.rstrip("/"), ""
        if not host or host.startswith("-") or (port and not port.isdigit()):
            raise InputError(f"ssh://{address}: give ssh://user@host[:port]")
        self.link = SshLink(host.strip("[]"), int(port) if port else None)
        self._python = shlex.quote(os.environ.get("HIMIX_BOARD_PYTHON", "python3"))
        self._brought: list[str] = []
        self._reached = False

    def status(self) -> dict[str, Any]:
        outcome = self._facts()
        free = self.link.run('df -Pk "$HOME" | tail -n 1').output.split()
        facts = outcome["facts"]
        return {
            "device": f"ssh://{self.link.name}", "name": facts["name"], "os": facts["os"], "cpu": facts.get("cpu", ""),
            "memory_bytes": facts.get("memory_bytes"), "free_bytes": int(free[3]) * 1024 if len(free) > 3 else None,
            "python": facts["python"], "runtimes": {n: v for n, v in outcome["versions"].items() if v and n != "numpy"},
            **outcome["reading"],
        }  # fmt: skip

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        with tempfile.TemporaryDirectory() as scratch:
            if read_manifest(folder).target == "executorch":
                there = f"{FOLDER}/executorch-{sha256(folder / MANIFEST)[:16]}"
                self._bring(there)
                self._reached = True
                return measure_executorch(self.link, folder, plan, dataset, command, progress, Path(scratch), there)
            board = board_job(folder, plan, dataset, Path(scratch))
            versions = self._facts()["versions"]
            if not versions.get(board.package):
                raise BoardLacks(self.link.name, board.package)
            there = f"{FOLDER}/{board.key}"
            self._bring(there)
            push(self.link, board.files, there, lambda done, of: progress("sending", done, of))
            started = now()
            outcomes = self._run(board, there, progress)
        outcome = outcomes[-1]
        outcome["samples"]["load"] = [o["load"] for o in outcomes[:-1]] + outcome["samples"]["load"]
        for answer in outcome["answers"]:
            answer["text"] = board.text_of(answer["text"])
            answer["images"] = [board.image_names[name] for name in answer["images"]]
        device = Device.model_validate(outcome["facts"])
        return make_record(folder, plan, board.job, outcome, device, command, started)

    def close(self) -> None:
        if self._reached:
            for there in list(self._brought):
                try:  # after a failure too; what cannot be reached any more keeps the parts that arrived
                    partial = self.link.run(
                        f"find {quoted(there)} -name '*.part' 2>/dev/null | head -n 1"
                    ).output.strip()
                    if not partial:
                        self._remove(there)
                except InputError:
                    break
        self.link.close()

    def _bring(self, there: str) -> None:
        if there not in self._brought:
            self._brought.append(there)

    def _remove(self, there: str) -> None:
        self.link.run(f"rm -rf {quoted(there)} && rmdir {quoted(FOLDER)} 2>/dev/null; true")
        self._brought.remove(there)

    def _facts(self) -> dict[str, Any]:
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
        result = self.link.run(f"{self._python} {quoted(FOLDER, 'runner/runner.pyz')} facts")
        outcome = follow(result.output.splitlines(), lambda done, of: None)
        if outcome is None:
            if "No module named 'numpy'" in result.errors:
                raise BoardLacks(self.link.name, "numpy")
            lines = result.errors.strip().splitlines() or [f"exit code {result.code}"]
            raise InputError(f"{self.link.name}: {self._python} cannot run the measuring program: {lines[-1]}")
        return outcome

    def _run(self, board: BoardJob, there: str, progress: Progress) -> list[dict[str, Any]]:
        """Start the measuring processes so that they outlive this connection, and wait for them."""
        runner, job = quoted(FOLDER, "runner/runner.pyz"), quoted(there, "job.json")
        steps = ["load"] * (board.loads - 1) + ["measure"]
        script = "; ".join(f"{self._python} {runner} {step} {job}" for step in steps)
        inside = f"({script}) > out 2> err < /dev/null; echo $? > ended"
        mark = f"started-{secrets.token_hex(8)}"  # a start whose confirmation was lost is not started again
        start = f"rm -f out err ended; touch {mark}; nohup sh -c {shlex.quote(inside)} > /dev/null 2>&1 &"
        self._patiently(f"cd {quoted(there)} && if [ ! -f {mark} ]; then {start} fi", progress)
        wait = f"n=0; while [ ! -f ended ] && [ $n -lt {POLL_S} ]; do sleep 1; n=$((n+1)); done"
        look = f"cd {quoted(there)} && {wait}; tail -n 1 out 2>/dev/null; cat ended 2>/dev/null"
        while True:
            shown = self._patiently(look, progress)
            lines = shown.output.splitlines()
            if lines and lines[-1].strip().isdigit():
                break
            if lines and lines[0].startswith('{"progress"'):
                progress("measuring", *json.loads(lines[0])["progress"])
        outcomes = []
        for line in self._patiently(f"cat {quoted(there, 'out')}", progress).output.splitlines():
            if (outcome := follow([line], lambda done, of: None)) is not None:
                outcomes.append(outcome)
        if len(outcomes) != len(steps):
            errors = self.link.run(f"tail -n 1 {quoted(there, 'err')}").output.strip()
            raise InputError(
                f"{self.link.name}: the measuring process ended early: {errors or 'killed; out of memory?'}"
            )
        return outcomes

    def _patiently(self, command: str, progress: Progress) -> Result:
        """Run a command there; a link that is lost may come back for three minutes, while the board goes on."""
        heard = time.monotonic()
        while True:
            try:
                return self.link.run(command)
            except LinkLost:
                if time.monotonic() - heard > SILENCE_S:
                    raise
                progress("waiting for the link", 0, 1)
                time.sleep(2)
