"""An Android phone over adb: what it is, and how a bundle is measured there."""

import contextlib
import re
import tempfile
from pathlib import Path

from himix_edge.bench.devices.adb_app import AppBench, app_installed
from himix_edge.bench.devices.adb_link import SERIAL, AdbLink, adb_command
from himix_edge.bench.devices.link import ANSWER_S, call
from himix_edge.bench.devices.phone import battery, thermal_state
from himix_edge.bench.devices.program_board import measure_program, program_of
from himix_edge.bench.devices.pushing import free_bytes, quoted, refuse_tiles
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Record
from himix_edge.bench.running import Progress
from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import InputError, one_line
from himix_edge.files import sha256

SHELL_FOLDER = "/data/local/tmp/himix-bench"  # where adb's shell may write and run programs
MOST_DEVICES = 100  # listed by one adb


class AdbDevice:
    """See `BenchDevice`. `serial` as `adb devices` shows it; None: the only one."""

    def __init__(self, serial: str | None):
        self.link = AdbLink(serial)
        self._app = AppBench(self.link)
        self._brought: list[str] = []

    def status(self) -> dict[str, object]:
        properties = ("ro.product.model", "ro.build.version.release", "ro.product.cpu.abi", "ro.soc.model")
        asked = "; ".join(f"getprop {name}" for name in properties)
        model, release, abi, soc = (self.link.run(asked).output.split("\n") + [""] * 4)[:4]
        memory = re.search(r"MemTotal:\s*([0-9]{1,15})\b", self.link.run("cat /proc/meminfo").output)
        free = free_bytes(self.link.run("df -Pk /sdcard | tail -n 1").output)
        state = thermal_state(self.link.run("dumpsys thermalservice").output)
        return {
            "device": self.link.name, "name": one_line(model), "os": f"Android {one_line(release)}",
            "cpu": f"{one_line(soc) or 'unknown'} ({one_line(abi)})",
            "memory_bytes": int(memory[1]) * 1024 if memory else None,
            "free_bytes": free,
            "runtimes": {"himix demo app": "installed"} if app_installed(self.link) else {},
            **battery(self.link.run("dumpsys battery").output),
            **({"thermal_state": state} if state else {}),
        }  # fmt: skip

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        """In the app; a bundle that boards run in a program of ours, in that program, which needs no app."""
        runtime = program_of(read_manifest(folder).target)
        if runtime is None:
            return self._app.measure(folder, plan, dataset, command, progress)
        refuse_tiles(folder)
        there = f"{SHELL_FOLDER}/{runtime.name}-{sha256(folder / MANIFEST)[:16]}"
        if there not in self._brought:
            self._brought.append(there)
        with tempfile.TemporaryDirectory() as scratch:
            return measure_program(runtime, self.link, folder, plan, dataset, command, progress, Path(scratch), there)

    def close(self) -> None:
        self._app.close()
        with contextlib.suppress(InputError):  # out of reach: the parts that arrived stay for the next time
            for there in list(self._brought):
                if not self.link.run(f"find {quoted(there)} -name '*.part'").output.strip():
                    self.link.run(f"rm -rf {quoted(there)}; rmdir {SHELL_FOLDER} 2>/dev/null")
                    self._brought.remove(there)


def connected() -> list[tuple[str, str]]:
    """(serial, state) of everything that `adb devices` lists. Raises InputError if there is no adb."""
    lines = call([*adb_command(), "devices"], ANSWER_S).output.splitlines()[1:]
    pairs = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines[:MOST_DEVICES]]
    return [(pair[0], pair[1].strip()) for pair in pairs if len(pair) == 2 and SERIAL.fullmatch(pair[0])]
