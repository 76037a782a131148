"""Core AI: on macOS 27 the real runtime, on Linux Apple's reference."""

import sys

from himix_edge.runtimes.coreml.files import package_files
from himix_edge.runtimes.registry import Provider, Runtime


def provider() -> Provider:
    """What computes: Apple's runtime for Linux, whose times say nothing, or the system's own."""
    if sys.platform == "darwin":
        return Provider("core-ai")
    note = "Core AI's reference runtime for Linux ran it: the answers count, the times are no device's"
    return Provider("reference", (note,))


RUNTIME = Runtime(
    name="coreai",
    title="Core AI (beta)",
    ending=".aimodel/main.mlirb",
    packages=("coreai-core",),
    modules=("coreai.authoring",),
    extra="coreai",
    in_all=False,  # its packages are beta
    reads=package_files,
    provider=provider,
)
