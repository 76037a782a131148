"""Looking at the machine while it works: temperature, clock, battery, other processes' load, energy, memory.

Reads Linux's /proc and /sys, which a workstation, a Raspberry Pi and a Jetson have in common; what is not there is left
out. Standard library only: boards run it too.
"""

import contextlib
import os
import resource
import sys
import time
from pathlib import Path

from himix_edge.bench.cores import core_clocks, read_number, read_text
from himix_edge.bench.power import power_now, rapl_counters, rapl_joules

PROCESSOR_ZONES = ("x86_pkg_temp", "cpu", "soc", "tcpu")  # how the names of a processor's thermal zones begin
PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
THROTTLED_NOW = 0b1111  # Raspberry Pi firmware: under-voltage, capped clock, throttled, soft temperature limit


class Probe:
    """Readings of this machine. `root` is where /proc and /sys are looked for."""

    def __init__(self, root: Path = Path("/")):
        self.root = root
        self._began = time.perf_counter()
        self._busy_then = self._busy()

    def reading(self) -> dict[str, object]:
        """One entry of the record's `readings`; `other_load` is over the time since the last one."""
        found = {
            "at_s": round(time.perf_counter() - self._began, 3),
            "cpu_temperature_c": self.temperature(),
            **self._clock(),
            **self._battery(),
            "other_load": self._other_load(),
            "core_clocks_mhz": core_clocks(self.root) or None,
            "power_w": power_now(self.root) or None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def temperature(self) -> float | None:
        """The processor's, in degrees Celsius: the hottest of its sensors."""
        found = []
        for zone in self.root.glob("sys/class/thermal/thermal_zone*"):
            if (read_text(zone / "type") or "").lower().startswith(PROCESSOR_ZONES):
                found.append(read_number(zone / "temp"))
        for sensor in self.root.glob("sys/class/hwmon/hwmon*"):
            if read_text(sensor / "name") in PROCESSOR_SENSORS:
                found += [read_number(path) for path in sensor.glob("temp*_input")]
        known = [value / 1000 for value in found if value is not None]
        return max(known) if known else None

    def throttle_events(self) -> int | None:
        """How often the processor slowed itself down since it was started, as far as the kernel counts it."""
        counts = [
            read_number(path)
            for path in self.root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        ]
        known = [int(count) for count in counts if count is not None]
        firmware = read_text(self.root / "sys/devices/platform/soc/soc:firmware/get_throttled")
        if firmware is not None:
            known.append(bin(int(firmware, 16) & THROTTLED_NOW).count("1"))
        return sum(known) if known else None

    def energy_uj(self) -> dict[str, tuple[float, float]] | None:
        """RAPL counters of the processor packages, in microjoules, with the value at which each starts again."""
        return rapl_counters(self.root) or None

    def _clock(self) -> dict[str, float | None]:
        policies = list(self.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
        now = [value for policy in policies if (value := read_number(policy / "scaling_cur_freq"))]
        most = [value for policy in policies if (value := read_number(policy / "cpuinfo_max_freq"))]
        if now:
            return {
                "cpu_clock_mhz": round(max(now) / 1000, 1),
                "cpu_clock_max_mhz": round(max(most) / 1000, 1) if most else None,
            }
        lines = (read_text(self.root / "proc/cpuinfo") or "").splitlines()
        stated = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
        return {"cpu_clock_mhz": round(max(stated), 1) if stated else None}

    def _battery(self) -> dict[str, object]:
        for supply in self.root.glob("sys/class/power_supply/*"):
            if read_text(supply / "type") == "Battery":
                tenths = read_number(supply / "temp")
                return {
                    "battery_percent": read_number(supply / "capacity"),
                    "battery_temperature_c": None if tenths is None else tenths / 10,
                    "charging": (read_text(supply / "status") or "") in ("Charging", "Full"),
                }
        return {}

    def _busy(self) -> tuple[float, float, float] | None:
        """Processor seconds spent by everybody (time stolen by a hypervisor included) and by this process; now."""
        line = (read_text(self.root / "proc/stat") or "").partition("\n")[0].split()
        if not line or line[0] != "cpu":
            return None
        user, nice, system, _idle, _iowait, irq, softirq, *rest = (float(value) for value in line[1:9])
        everybody = (user + nice + system + irq + softirq + sum(rest)) / os.sysconf("SC_CLK_TCK")
        return everybody, time.process_time(), time.perf_counter()

    def _other_load(self) -> float | None:
        then, now = self._busy_then, self._busy()
        self._busy_then = now
        if then is None or now is None or now[2] - then[2] < 0.05:  # the kernel counts in hundredths
            return None
        return round(max(0.0, (now[0] - then[0]) - (now[1] - then[1])) / (now[2] - then[2]), 3)


def energy_used(before: dict[str, tuple[float, float]] | None, probe: Probe) -> float | None:
    """Joules since `before`, all packages; counters that started again are allowed for once."""
    after = probe.energy_uj()
    if before is None or after is None:
        return None
    return sum(rapl_joules(before, after).values())


def reset_peak_memory() -> None:
    """Let the kernel count this process's peak from here on, where it can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int | None:
    """Resident memory of this process now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Highest resident memory of this process, since `reset_peak_memory` where that worked."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (peak if sys.platform == "darwin" else peak * 1024)


def pss_bytes(root: Path = Path("/")) -> int | None:
    """This process's share of memory now: pages that several processes have are divided among them."""
    return _kilobytes(root / "proc/self/smaps_rollup", "Pss")


def memory_facts(baseline: int | None) -> dict[str, object]:
    """The record's `memory` of this process, now that it has done everything; `baseline`: resident before."""
    share = pss_bytes()
    told = {} if share is None else {"pss_bytes": share, "pss_source": "smaps_rollup"}
    return {"baseline_bytes": baseline, "peak_bytes": peak_bytes(), **told}


def _status(name: str) -> int | None:
    return _kilobytes(Path("/proc/self/status"), name)


def _kilobytes(path: Path, name: str) -> int | None:
    lines = (read_text(path) or "").splitlines()
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None
