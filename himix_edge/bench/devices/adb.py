"""An Android phone: the bundle is pushed into the demo app's folder, the app measures it, its record is read back."""

import contextlib
import re
import shlex
import time
from pathlib import Path

from himix_edge.bench.devices.adb_link import SERIAL, AdbLink, adb_command
from himix_edge.bench.devices.link import ANSWER_S, LinkLost, call
from himix_edge.bench.devices.pushing import free_bytes, push, quoted, refuse_tiles
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Record, as_records
from himix_edge.bench.running import Progress
from himix_edge.bundle import MANIFEST, all_files, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import InputError, last_line, one_line
from himix_edge.files import sha256
from himix_edge.reading import parse_json
from himix_edge.runtimes.registry import all_runtimes
from himix_edge.runtimes.verifying import open_verified

APP = "dev.himix.edge.demo"
ACTIVITY = f"{APP}/.BenchActivity"
FOLDER = f"/sdcard/Android/data/{APP}/files"
OUT = "himix-bench.json"
PREFIX = "himix-bench-"  # of our bundles' folders there
SILENCE_S = 90.0
PATIENCE_S = 3600.0
POLL_S = 3.0
COOLING_S = 300.0
MOST_DEVICES = 100  # listed by one adb


class AdbDevice:
    """See `BenchDevice`. `serial` as `adb devices` shows it; None: the only one."""

    def __init__(self, serial: str | None):
        self.link = AdbLink(serial)
        self._brought: list[str] = []

    def status(self) -> dict[str, object]:
        properties = ("ro.product.model", "ro.build.version.release", "ro.product.cpu.abi", "ro.soc.model")
        asked = "; ".join(f"getprop {name}" for name in properties)
        model, release, abi, soc = (self.link.run(asked).output.split("\n") + [""] * 4)[:4]
        memory = re.search(r"MemTotal:\s*([0-9]{1,15})\b", self.link.run("cat /proc/meminfo").output)
        free = free_bytes(self.link.run("df -Pk /sdcard | tail -n 1").output)
        return {
            "device": self.link.name, "name": one_line(model), "os": f"Android {one_line(release)}",
            "cpu": f"{one_line(soc) or 'unknown'} ({one_line(abi)})",
            "memory_bytes": int(memory[1]) * 1024 if memory else None,
            "free_bytes": free,
            "runtimes": {"himix demo app": "installed"} if self._app_installed() else {}, **self.battery(),
        }  # fmt: skip

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        """The app asks the questions that it ships with; `dataset` is not used.

        The bundle goes into a folder of a name of ours, so that one that the user has put there stays as it is.
        """
        self._check(plan)
        targets = [runtime.name for runtime in all_runtimes() if runtime.app]
        if (target := read_manifest(folder).target) not in targets:
            raise InputError(
                f"{folder}: the app runs {' and '.join(targets)} bundles, not {one_line(target)}; "
                f"export it with --target {targets[0]}"
            )
        refuse_tiles(folder)
        bundle = open_verified(folder)
        name = f"{PREFIX}{sha256(folder / MANIFEST)[:16]}"
        if not self._app_installed():
            raise InputError(f"{self.link.name}: the demo app is not installed; make apk, then adb install the .apk")
        there = f"{FOLDER}/bundles/{name}"
        files = {record.path: folder / record.path for record in all_files(bundle.manifest)}
        if there not in self._brought:
            self._brought.append(there)
        push(self.link, files | {MANIFEST: folder / MANIFEST}, there, lambda done, of: progress("sending", done, of))
        self._cool_down(plan.max_temperature, progress)
        self._start(name, plan)
        record = self._wait(progress)
        return record.model_copy(update={"command": f"{command}  # on the device: {record.command}"})

    def close(self) -> None:
        with contextlib.suppress(InputError):  # out of reach: the parts that arrived stay for the next time
            for there in list(self._brought):
                if not self.link.run(f"find {quoted(there)} -name '*.part'").output.strip():
                    self._remove(there)

    def battery(self) -> dict[str, float]:
        """Charge in percent and temperature in degrees Celsius, as far as the device tells."""
        said = self.link.run("dumpsys battery").output
        level, tenths = (re.search(rf"^\s*{word}: ([0-9]{{1,6}})\b", said, re.M) for word in ("level", "temperature"))
        found = {"battery_percent": float(level[1])} if level else {}
        return found | ({"battery_temperature_c": int(tenths[1]) / 10} if tenths else {})

    def _check(self, plan: Plan) -> None:
        simple = Plan(timed=plan.timed, warm_up=plan.warm_up, threads=plan.threads, new_tokens=plan.new_tokens,
                      natural=plan.natural, loads=plan.loads, max_temperature=plan.max_temperature)  # fmt: skip
        if plan != simple:
            raise InputError(
                f"{self.link.name}: the app asks its own questions, one to an image; only --iterations, --warm-up, "
                "--threads and --max-temperature can be set there"
            )

    def _app_installed(self) -> bool:
        return "package:" in self.link.run(f"pm path {APP}").output

    def _cool_down(self, limit: float | None, progress: Progress) -> None:
        until = time.monotonic() + COOLING_S
        while limit is not None and time.monotonic() < until:
            if self.battery().get("battery_temperature_c", 0.0) <= limit:
                return
            progress("cooling down", 0, 1)
            time.sleep(10)

    def _start(self, name: str, plan: Plan) -> None:
        """In a fresh process: one that still runs is stopped first."""
        out = quoted(FOLDER, OUT)
        extras = f"--es bundle {shlex.quote(name)} --es out {OUT} --ei warm_up {plan.warm_up} --ei timed {plan.timed}"
        extras += f" --ei threads {plan.threads}" if plan.threads else ""
        started = self.link.run(f"am force-stop {APP}; rm -f {out} {out}.error; am start -n {ACTIVITY} {extras}")
        said = started.output + started.errors
        if started.code or "Error" in said:
            raise InputError(f"{self.link.name}: the app did not start: {last_line(said, f'exit code {started.code}')}")

    def _wait(self, progress: Progress) -> Record:
        out = quoted(FOLDER, OUT)
        look = f"if [ -f {out}.error ]; then echo failed; cat {out}.error; elif [ -f {out} ]; then echo done; " \
               f"elif pidof {APP} >/dev/null; then echo running; else echo gone; fi"  # fmt: skip
        began = heard = time.monotonic()
        gone = 0
        while time.monotonic() - began < PATIENCE_S:
            time.sleep(POLL_S)
            try:
                said = self.link.run(look).output.strip().splitlines() or [""]
            except LinkLost:
                if time.monotonic() - heard > SILENCE_S:
                    raise
                continue
            heard = time.monotonic()
            gone = gone + 1 if said[0] == "gone" else 0
            if said[0] == "failed":
                raise InputError(f"{self.link.name}: the app says: {one_line(' '.join(said[1:])) or 'nothing'}")
            if gone > 1:
                raise InputError(
                    f"{self.link.name}: the app ended without a record (out of memory?); adb logcat -s HimixBench tells"
                )
            if said[0] == "done":
                return self._pull()
            progress("measuring", int(heard - began), int(PATIENCE_S))
        raise InputError(f"{self.link.name}: no record after {PATIENCE_S / 60:.0f} minutes")

    def _pull(self) -> Record:
        where = f"{self.link.name}: the app's record"
        return as_records(parse_json(self.link.run(f"cat {quoted(FOLDER, OUT)}").output, where), where)[0]

    def _remove(self, there: str) -> None:
        out = quoted(FOLDER, OUT)
        # of runs that were killed
        old = f"find {quoted(FOLDER)}/bundles -maxdepth 1 -name '{PREFIX}*' -mtime +0 -exec rm -rf {{}} +"
        self.link.run(f"am force-stop {APP}; rm -rf {quoted(there)} {out} {out}.error; {old}")
        self._brought.remove(there)


def connected() -> list[tuple[str, str]]:
    """(serial, state) of everything that `adb devices` lists. Raises InputError if there is no adb."""
    lines = call([*adb_command(), "devices"], ANSWER_S).output.splitlines()[1:]
    pairs = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines[:MOST_DEVICES]]
    return [(pair[0], pair[1].strip()) for pair in pairs if len(pair) == 2 and SERIAL.fullmatch(pair[0])]
