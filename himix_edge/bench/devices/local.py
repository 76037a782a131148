"""This machine."""

from functools import cached_property
from pathlib import Path

import psutil

from himix_edge.bench.bandwidth import read_bandwidth
from himix_edge.bench.host import device_facts, installed_version
from himix_edge.bench.plan import Plan
from himix_edge.bench.probes import Probe
from himix_edge.bench.record import Device, Record
from himix_edge.bench.running import Progress, measure_here
from himix_edge.data import Dataset
from himix_edge.runtimes.registry import all_runtimes


class LocalDevice:
    """See `BenchDevice`."""

    @cached_property
    def device(self) -> Device:
        """Facts and measured memory bandwidth."""
        facts = device_facts()
        cores = psutil.cpu_count(logical=False) or facts.get("cores")
        return Device.model_validate({**facts, "cores": cores, "read_bandwidth_gb_s": round(read_bandwidth(), 1)})

    def status(self) -> dict[str, object]:
        facts = device_facts()
        names = dict.fromkeys(runtime.packages[0] for runtime in all_runtimes())
        return {
            "device": "local", "name": facts["name"], "os": facts["os"], "cpu": facts.get("cpu", ""),
            "memory_bytes": facts.get("memory_bytes"), "free_bytes": psutil.disk_usage(str(Path.cwd())).free,
            "runtimes": {name: found for name in names if (found := installed_version(name))}, **Probe().reading(),
        }  # fmt: skip

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        return measure_here(folder, plan, dataset, self.device, command, progress)

    def close(self) -> None:
        pass
