"""Core ML: on macOS the real runtime, elsewhere an interpreter of what the packages say."""

import sys

from himix_edge.runtimes.coreml.files import package_files
from himix_edge.runtimes.registry import Provider, Runtime

# our names, and MLComputeUnits in coremltools
COMPUTE_UNITS = {"all": "ALL", "cpu+gpu": "CPU_AND_GPU", "cpu+npu": "CPU_AND_NE"}


def provider() -> Provider:
    """Core ML itself, or the interpreter, whose times say nothing."""
    if sys.platform == "darwin":
        return Provider("core-ml")
    note = "Core ML's reference interpreter ran it: the answers count, the times are no device's"
    return Provider("interpreter", (note,))


def devices() -> tuple[str, ...]:
    """Core ML's compute units beside the CPU alone, in the order in which they are tried; none elsewhere."""
    return tuple(COMPUTE_UNITS) if sys.platform == "darwin" else ()


RUNTIME = Runtime(
    name="coreml",
    title="Core ML",
    ending=".mlpackage/Manifest.json",
    packages=("coremltools", "torch"),
    modules=("torch", "coremltools"),
    extra="coreml",
    reads=package_files,
    provider=provider,
    devices=devices,
    preferred=devices,
)
