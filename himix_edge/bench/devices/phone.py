"""What an Android shell tells about the phone: `dumpsys` and the like, read as far as they are understood.

Each function takes what the device said, which is not taken at its word: numbers are bounded, text is one line.
"""

import re
from dataclasses import dataclass

from himix_edge.bench.devices.link import Link
from himix_edge.errors import InputError

THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")  # as PowerManager counts them
SUPPLIES = ("AC", "USB", "Wireless", "Dock")
RESUMED = re.compile(r"ResumedActivity[:=] ?ActivityRecord\{[^}\n]{0,200}? ([\w.]{1,200})/", re.I)
WAKE = "input keyevent KEYCODE_WAKEUP; wm dismiss-keyguard"


@dataclass(frozen=True)
class Screen:
    """Whether the screen is on, and whether a lock is in front of the apps; None: the phone does not tell."""

    awake: bool | None
    locked: bool | None

    @property
    def ready(self) -> bool:
        """Whether nothing is known that keeps an app from being shown."""
        return self.awake is not False and self.locked is not True


def battery(said: str) -> dict[str, float]:
    """Charge in percent and temperature in degrees Celsius, of `dumpsys battery`."""
    level, tenths = (re.search(rf"^\s*{word}: ([0-9]{{1,6}})\b", said, re.M) for word in ("level", "temperature"))
    found = {"battery_percent": float(level[1])} if level and int(level[1]) <= 100 else {}
    return found | ({"battery_temperature_c": int(tenths[1]) / 10} if tenths else {})


def plugged_in(said: str) -> bool | None:
    """Whether anything charges it, of `dumpsys battery`."""
    found = re.findall(rf"^\s*(?:{'|'.join(SUPPLIES)}) powered: (true|false)\s*$", said, re.M)
    return "true" in found if found else None


def thermal_state(said: str) -> str | None:
    """Android's word for how much it throttles, of `dumpsys thermalservice`."""
    found = re.search(r"^\s*Thermal Status: ([0-6])\s*$", said, re.M)
    return THERMAL[int(found[1])] if found else None


def screen(power: str, policy: str, trust: str) -> Screen:
    """Of `dumpsys power`, `dumpsys window policy` and `dumpsys trust`.

    A lock that a swipe opens shows in the second only, one that asks for a secret also in the third; the third has a
    line for each user, of which the current one counts.
    """
    wakefulness = re.search(r"^\s*mWakefulness=(\w{1,20})", power, re.M)
    showing = re.search(r"^\s*(?:showing|mIsShowing|mShowingLockscreen)=(true|false)\b", policy, re.M)
    user = re.search(r"^.{0,300}\(current\).{0,300}\bdeviceLocked=([01])", trust, re.M)
    known = [*([showing[1] == "true"] if showing else []), *([user[1] == "1"] if user else [])]
    return Screen(wakefulness[1] == "Awake" if wakefulness else None, any(known) if known else None)


def in_front(activities: str, package: str) -> bool | None:
    """Whether the app's screen is the one that is shown, of `dumpsys activity activities`."""
    found = RESUMED.findall(activities)
    return package in found if found else None


def look_at_screen(link: Link) -> Screen:
    """Ask the phone. Raises InputError if it is out of reach."""
    asked = ("dumpsys power", "dumpsys window policy", "dumpsys trust")
    return screen(*(link.run(command).output for command in asked))


def require_screen(link: Link) -> None:
    """Wake the phone and open a lock that needs no secret. Raises InputError if the screen stays off or locked."""
    if look_at_screen(link).ready:
        return
    link.run(f"{WAKE}; sleep 1")
    now = look_at_screen(link)
    if not now.ready:
        what = "locked" if now.awake is not False else "off"
        raise InputError(
            f"{link.name}: its screen is {what}, and Android freezes apps that are not shown; unlock it, keep it on, "
            "and try again"
        )
