"""Facts about the machine that a record states. Standard library only: boards run it too."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from himix_edge.bench.cores import core_facts


def device_facts(root: Path = Path("/")) -> dict[str, object]:
    """The record's `device`; what cannot be read is left out. `root` is where /proc and /sys are looked for."""
    cpuinfo = _cpuinfo(root)
    model = (_read(root / "sys/firmware/devicetree/base/model") or "").strip("\0 ")
    cpu = next((c[key] for c in cpuinfo[:1] for key in ("model name", "Hardware", "Processor") if key in c), None)
    cores = {(c["physical id"], c["core id"]) for c in cpuinfo if "core id" in c and "physical id" in c}
    facts = {
        "name": model or platform.node() or "unknown",
        "kind": "board" if model else "computer",
        "os": f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else f"{platform.system()} {_release()}",
        "cpu": cpu or platform.processor() or None,
        "architecture": platform.machine() or None,
        "cores": len(cores) or None,
        "threads": os.cpu_count(),
        "memory_bytes": _memory(),
        "cpus": core_facts(root) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def installed_version(package: str) -> str | None:
    """The version of a pip package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release() -> str:
    parts = platform.release().split("-")[0].split(".")
    return ".".join(parts[:2])


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One dictionary for each logical processor."""
    blocks = (_read(root / "proc/cpuinfo") or "").strip().split("\n\n")
    pairs = ([line.partition(":") for line in block.splitlines()] for block in blocks)
    return [{name.strip(): value.strip() for name, _, value in lines} for lines in pairs]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
