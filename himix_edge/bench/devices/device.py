"""The devices that `--device` names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Record
from himix_edge.bench.running import Progress
from himix_edge.data import Dataset
from himix_edge.errors import InputError


class BenchDevice(Protocol):
    """Somewhere to measure bundles."""

    def status(self) -> dict[str, object]:
        """For people: name, os, memory, free space, what can run there.

        Raises InputError saying what is wrong and what to do if it cannot be reached.
        """
        ...

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        """Bring the bundle there if it is not there yet, measure it, bring the record back.

        Raises InputError or another expected failure, in one line.
        """
        ...

    def close(self) -> None:
        """Remove what was brought and end the connection."""
        ...


@contextmanager
def open_device(name: str) -> Iterator[BenchDevice]:
    """ "local", "ssh://user@host[:port]" or "adb[:SERIAL]"; closed at the end of the block.

    Raises InputError for another name, or a device that cannot be reached.
    """
    device = _connect(name)
    try:
        yield device
    finally:
        device.close()


def _connect(name: str) -> BenchDevice:
    kind, _, rest = name.partition(":")
    if name == "local":
        from himix_edge.bench.devices.local import LocalDevice

        return LocalDevice()
    if kind == "ssh" and rest.startswith("//"):
        from himix_edge.bench.devices.ssh import SshDevice

        return SshDevice(rest[2:])
    if kind == "adb":
        from himix_edge.bench.devices.adb import AdbDevice

        return AdbDevice(rest or None)
    raise InputError(f"--device {name}: give local, ssh://user@host[:port] or adb[:SERIAL]")
