"""A processor's cores: which are large and which small, their clocks, and how to keep a process on one kind.

Reads Linux's /sys below a `root`. Standard library only: boards run it too.
"""

import os
from pathlib import Path

from himix_edge.errors import InputError

KINDS = ("big", "little")
PLENTY = 4096  # processors of one machine


def core_facts(root: Path = Path("/")) -> list[dict[str, object]]:
    """The record's `cpus`: every processor that is on, in the order of its number; [] where nothing is told of them."""
    found: list[dict[str, object]] = []
    for number in core_numbers(root):
        policy = root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        low, high = read_number(policy / "cpuinfo_min_freq"), read_number(policy / "cpuinfo_max_freq")
        capacity = read_number(root / f"sys/devices/system/cpu/cpu{number}/cpu_capacity")
        facts = {
            "number": number,
            "min_mhz": low / 1000 if low else None,
            "max_mhz": high / 1000 if high else None,
            "capacity": int(capacity) if capacity and capacity >= 1 else None,
            "governor": read_text(policy / "scaling_governor") or None,
        }
        found.append({name: value for name, value in facts.items() if value is not None})
    return found if any(len(facts) > 1 for facts in found) else []


def core_clocks(root: Path = Path("/")) -> list[float]:
    """Each core's clock now in MHz, in the same order; [] unless all of them tell."""
    paths = [root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq" for number in core_numbers(root)]
    clocks = [read_number(path) for path in paths]
    return [round(clock / 1000, 1) for clock in clocks if clock] if all(clocks) else []


def core_numbers(root: Path = Path("/")) -> list[int]:
    """The numbers of the processors that are on."""
    folder = root / "sys/devices/system/cpu"
    names = (path.name[3:] for path in folder.glob("cpu[0-9]*"))
    numbers = (int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 5)
    return sorted(n for n in numbers if n < PLENTY and read_text(folder / f"cpu{n}/online") != "0")


def cores_of(kind: str, root: Path = Path("/")) -> list[int]:
    """The numbers of the "little" cores, those of the least capacity, or of the "big" ones, all others.

    A phone often has three kinds; the middle ones are big. Capacity is the kernel's, or the highest clock.

    Raises:
        InputError: all cores are alike, or nothing is told of them.
    """
    facts = core_facts(root)
    for field in ("capacity", "max_mhz"):
        sizes = {core["number"]: core[field] for core in facts if field in core}
        if facts and len(sizes) == len(facts) and len(set(sizes.values())) > 1:
            least = min(sizes.values())  # type: ignore[type-var]  # numbers, all of them
            return [int(str(n)) for n, size in sizes.items() if (size == least) == (kind == "little")]
    raise InputError(f"--cores {kind}: this machine's cores are all alike, or it does not tell; leave it out")


def bind(kind: str, root: Path = Path("/")) -> int:
    """Keep this process, and the threads that it starts from now on, on the cores of a kind; how many they are.

    Raises:
        InputError: as `cores_of`, and where a process cannot choose its cores.
    """
    numbers = cores_of(kind, root)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(f"--cores {kind}: this system lets no process choose its cores; leave it out")
    try:
        os.sched_setaffinity(0, numbers)
    except OSError as error:
        raise InputError(f"--cores {kind}: cores {numbers} are not this process's to use ({error.strerror})") from None
    return len(numbers)


def read_text(path: Path) -> str | None:
    """A system file's text; None if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def read_number(path: Path) -> float | None:
    """A system file's number; None if it cannot be read or is none."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
