"""What a machine tells of the power it takes: RAPL's counters, INA sensors on a board's rails, a battery.

Reads Linux's /sys below a `root`. Standard library only: boards run it too. Counters are read before and after;
sensors that give power now are read in between by a thread, and added up.
"""

import math
import threading
import time
from pathlib import Path

from himix_edge.bench.cores import read_number, read_text

SAMPLE_S = 0.2
INA = ("ina2", "ina3")  # how the names of Texas Instruments' current and power monitors begin in hwmon
MISSING = {
    "rapl": "no counters in /sys/class/powercap that this user may read",
    "ina": "no INA sensor in /sys/class/hwmon",
    "battery": "no battery in /sys/class/power_supply that tells its power",
}


def rapl_counters(root: Path = Path("/")) -> dict[str, tuple[float, float]]:
    """Microjoules of each processor package, and the value at which its counter starts again."""
    counters = {}
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if zone.name.count(":") == 1:
            value, most = read_number(zone / "energy_uj"), read_number(zone / "max_energy_range_uj")
            if value is not None:
                counters[zone.name] = (value, most or 0.0)
    return counters


def rapl_joules(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Joules of each package between two readings; a counter that started again is allowed for once."""
    used = {}
    for name, (value, most) in after.items():
        then = before.get(name, (value, most))[0]
        used[name] = (value - then + (most if value < then else 0)) / 1e6
    return used


def ina_watts(root: Path = Path("/")) -> dict[str, float]:
    """Watts of each rail that an INA sensor watches, by its label: a channel's power, or voltage times current."""
    found = {}
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not (read_text(sensor / "name") or "").startswith(INA):
            continue
        for channel in range(1, 5):
            label = read_text(sensor / f"in{channel}_label") or read_text(sensor / f"power{channel}_label")
            if label in ("", "NC", "sum of shunt voltages"):  # not connected, and the chip's own sum
                continue
            micro = read_number(sensor / f"power{channel}_input")
            milli = [read_number(sensor / f"{kind}{channel}_input") for kind in ("in", "curr")]
            if micro is not None:
                watts = micro / 1e6
            elif milli[0] is not None and milli[1] is not None:
                watts = milli[0] * milli[1] / 1e6
            else:
                continue
            found[(label or f"{sensor.name} channel {channel}")[:100]] = max(0.0, watts)
    return found


def battery_watts(root: Path = Path("/")) -> float | None:
    """Watts that flow from or into the battery, all cells together; None where it does not tell."""
    found = []
    for supply in (root / "sys/class/power_supply").glob("*"):
        if read_text(supply / "type") == "Battery" and read_text(supply / "scope") != "Device":  # a mouse's
            power = read_number(supply / "power_now")
            current, voltage = (read_number(supply / name) for name in ("current_now", "voltage_now"))
            if power is not None:
                found.append(abs(power) / 1e6)
            elif current is not None and voltage is not None:
                found.append(abs(current) * voltage / 1e12)
    known = [watts for watts in found if math.isfinite(watts)]
    return sum(known) if known else None


def unplugged(root: Path = Path("/")) -> bool | None:
    """Whether it runs from its battery; None where there is none."""
    supplies = list((root / "sys/class/power_supply").glob("*"))
    kinds = [(read_text(supply / "type"), supply) for supply in supplies if read_text(supply / "scope") != "Device"]
    if not any(kind == "Battery" for kind, _ in kinds):
        return None
    on = any(kind != "Battery" and read_number(supply / "online") == 1 for kind, supply in kinds)
    states = [read_text(supply / "status") for kind, supply in kinds if kind == "Battery"]
    return not on and "Charging" not in states


def power_now(root: Path = Path("/")) -> dict[str, float]:
    """A reading's `power_w`: the rails by their labels, and the battery."""
    watts = battery_watts(root)
    return {**ina_watts(root), **({} if watts is None else {"battery": round(watts, 4)})}


class PowerMeter:
    """Joules between `start` and `stop`, from every source that there is."""

    def __init__(self, root: Path = Path("/"), sample_s: float = SAMPLE_S):
        self._root, self._sample_s = root, sample_s
        self._joules: dict[str, float] = {}
        self._watts: dict[str, float] = {}
        self._plugged = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power", daemon=True)
        self._began = self._at = 0.0
        self._counters: dict[str, tuple[float, float]] = {}

    def start(self) -> None:
        """Begin. Sensors are read five times a second; where there is none, nothing runs."""
        self._began = self._at = time.perf_counter()
        self._counters = rapl_counters(self._root)
        self._watts = power_now(self._root)
        self._plugged = unplugged(self._root) is False
        if self._watts:
            self._thread.start()

    def stop(self, tokens: int) -> list[dict[str, object]]:
        """The record's `energy`, for `tokens` tokens; a source that is not there says why."""
        seconds = time.perf_counter() - self._began
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            self._add()
        told = {"seconds": round(seconds, 3), "tokens": tokens}
        used = rapl_joules(self._counters, rapl_counters(self._root)) if self._counters else {}
        found = [{"source": "rapl", "what": name, "joules": joules, **told} for name, joules in used.items()]
        rails = {name: joules for name, joules in self._joules.items() if name != "battery"}
        found += [{"source": "ina", "what": name, "joules": joules, **told} for name, joules in rails.items()]
        if self._plugged and "battery" in self._joules:
            found.append({
                "source": "battery", "what": "the whole device",
                "reason": "plugged in: the battery does not tell what the device uses",
            })  # fmt: skip
        elif "battery" in self._joules:
            found.append({"source": "battery", "what": "the whole device", "joules": self._joules["battery"], **told})
        there = {str(entry["source"]) for entry in found}
        return found + [
            {"source": source, "what": "", "reason": f"not readable: {why}"}
            for source, why in MISSING.items() if source not in there
        ]  # fmt: skip

    def _watch(self) -> None:
        while not self._over.wait(self._sample_s):
            self._add()

    def _add(self) -> None:
        """The time since the last look at the mean of both looks' watts."""
        now, watts = time.perf_counter(), power_now(self._root)
        self._plugged |= unplugged(self._root) is False
        for name, value in watts.items():
            passed = (now - self._at) * (value + self._watts.get(name, value)) / 2
            self._joules[name] = self._joules.get(name, 0.0) + passed
        self._at, self._watts = now, watts
