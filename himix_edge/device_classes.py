"""Classes of devices by their memory, and what is left of it for one program: `himix info BUNDLE --device-class`.

Phones and tablets: three eighths of the RAM. iPadOS 26.4 gave one app 3 GB of 8, and 6 GB before
(developer.apple.com/forums/thread/826325). Android kills by pressure on the whole device, from Android 17 on also by a
limit of each app, and states no share, so the same is assumed. Boards: what a system with a desktop leaves, about 1 GB
less on a Raspberry Pi and 2 GB on a Jetson, and computers: 4 GB less; these are assumptions. Give `--memory` where you
know better.
"""

import re
from dataclasses import dataclass

from himix_edge.errors import InputError

GB = 10**9
PHONE = 3 / 8
PROGRAM = 150_000_000  # the app or Python around the runtime, its libraries and a decoded photo: an assumption
MARGIN = 1.2  # what a prediction may be off by
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": GB, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True)
class DeviceClass:
    """A kind of device: its RAM, and what one program may take of it, in bytes."""

    name: str
    ram: int
    left: int


def _phone(gigabytes: int) -> DeviceClass:
    return DeviceClass(f"phone-{gigabytes}gb", gigabytes * GB, int(PHONE * gigabytes * GB))


def _less(name: str, gigabytes: int, taken: int) -> DeviceClass:
    return DeviceClass(name, gigabytes * GB, (gigabytes - taken) * GB)


CLASSES = {
    each.name: each
    for each in (
        *(_phone(gigabytes) for gigabytes in (3, 4, 6, 8, 12, 16)),
        _less("pi4-2gb", 2, 1),
        _less("pi4-4gb", 4, 1),
        _less("pi5-4gb", 4, 1),
        _less("pi5", 8, 1),
        _less("pi5-16gb", 16, 1),
        _less("jetson-orin-nano", 8, 2),
        _less("laptop-8gb", 8, 4),
        _less("laptop-16gb", 16, 4),
    )
}


def find_class(name: str) -> DeviceClass:
    """A class by its name. Raises InputError with the known ones."""
    if name not in CLASSES:
        raise InputError(f"--device-class {name!r:.40}: none of {', '.join(CLASSES)}; --memory 3GB says it in bytes")
    return CLASSES[name]


def read_bytes(text: str) -> int:
    """Bytes of "3GB", "750MB", "1.5GiB". Raises InputError for what is none."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    count = int(float(found[1]) * UNITS[(found[2] or "").upper()]) if found else 0
    if count < UNITS["MB"]:
        raise InputError(f"--memory {text!r:.40}: give what the program may take, as 3GB, 750MB or 1.5GiB")
    return count


def verdict(peak: int, left: int) -> str:
    """`fits`, `tight` or `does not fit`: a peak, and the program around it, in what is left to it.

    Tight is what would not fit if the prediction were too low by its usual error.
    """
    if peak + PROGRAM > left:
        return "does not fit"
    return "fits" if MARGIN * peak + PROGRAM <= left else "tight"
