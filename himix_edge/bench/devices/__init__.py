"""Where a benchmark runs: this machine, a board over SSH, an Android phone over adb."""

from himix_edge.bench.devices.device import BenchDevice, open_device

__all__ = ["BenchDevice", "open_device"]
