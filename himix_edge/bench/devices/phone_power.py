"""What an Android shell tells of energy and memory during a run: rails of ODPM, batterystats, meminfo.

What a device says is bounded and matched by line. The battery's own current is the app's to read: a shell often may
not.
"""

import re
import time
from dataclasses import dataclass

from himix_edge.bench.devices.link import Link
from himix_edge.bench.devices.phone import plugged_in

ODPM = "dumpsys android.hardware.power.stats.IPowerStats/default"  # of phones whose rails are measured: Pixel 6 and on
RAIL = re.compile(r"^\s*(\[?[\w:.\]-]{1,80})\s+([0-9]{1,15}(?:\.[0-9]{1,6})?) mWs\b", re.M)
MOST_RAILS = 100
JOULES_OF_MAH = 3.6  # times volts


@dataclass(frozen=True)
class Told:
    """What counters said at one moment; None: nothing. Rails in mWs, the app's use in mAh, the battery's volts."""

    at: float
    rails: dict[str, float]
    app_mah: float | None
    volts: float | None
    plugged: bool | None


def odpm_rails(said: str) -> dict[str, float]:
    """Milliwatt-seconds of each rail since it counts, of the service's energy meter."""
    meter = said.partition("energy meter")[2].partition("End of")[0]
    return {name: float(value) for name, value in RAIL.findall(meter)[:MOST_RAILS]}


def app_mah(said: str, user: str) -> float | None:
    """Milliampere-hours of an app by Android's estimate, of `dumpsys batterystats`; `user` as it names one: u0a231."""
    found = re.search(rf"^\s*uid {re.escape(user)}: ([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)\b", said, re.M | re.I)
    return float(found[1]) if found else None


def user_of(said: str) -> str | None:
    """An app's user as batterystats writes it, of `pm list packages -U APP`."""
    found = re.search(r"\buid:1([0-9]{4})\b", said)
    return f"u0a{int(found[1])}" if found else None


def pss_bytes(said: str) -> int | None:
    """A process's share of memory, of `dumpsys meminfo`."""
    found = re.search(r"^\s*TOTAL(?: PSS)?:\s+([0-9]{1,12})\b", said, re.M)
    return int(found[1]) * 1024 if found else None


def look(link: Link, app: str) -> Told:
    """Ask the phone. Raises InputError if it is out of reach."""
    user = user_of(link.run(f"pm list packages -U {app}").output)
    stats = link.run("dumpsys batterystats --charged").output if user else ""
    battery = link.run("dumpsys battery").output
    volts = re.search(r"^\s*voltage: ([0-9]{4})\b", battery, re.M)
    return Told(
        time.monotonic(), odpm_rails(link.run(ODPM).output), app_mah(stats, user or ""),
        int(volts[1]) / 1000 if volts else None, plugged_in(battery),
    )  # fmt: skip


def energy(before: Told, after: Told, tokens: int) -> list[dict[str, object]]:
    """The record's `energy` from the app's start to its end, for all tokens that it made in that time."""
    told = {"seconds": after.at - before.at, "tokens": tokens}
    used = {name: (value - before.rails[name]) / 1000 for name, value in after.rails.items() if name in before.rails}
    found: list[dict[str, object]] = [
        {"source": "odpm", "what": name, "joules": joules, **told} for name, joules in used.items() if joules >= 0
    ]
    if not used:
        found.append({"source": "odpm", "what": "", "reason": "not readable: this phone does not tell its rails"})
    entry: dict[str, object] = {"source": "batterystats", "what": "the app, as Android estimates it"}
    if before.plugged is not False or after.plugged is not False:
        entry["reason"] = "not readable: it counts only while nothing charges the phone (use adb over Wi-Fi)"
    elif before.app_mah is None or after.app_mah is None or after.volts is None:
        entry["reason"] = "not readable: batterystats says nothing of the app"
    else:
        grown = after.app_mah - before.app_mah
        entry |= {"joules": max(0.0, grown) * JOULES_OF_MAH * after.volts, **told}
    return [*found, entry]
