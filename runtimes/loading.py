"""Opening a bundle's graphs in the runtime of its target."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from himix_edge.bundle import Bundle, cache_bytes
from himix_edge.errors import InputError
from himix_edge.runtimes.adapter import no_adapter
from himix_edge.runtimes.checked_engine import CheckedEngine, runtime_errors
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.registry import find_runtime, missing_packages, runtime_names

CPU = "cpu"  # the device that every runtime has


def load_engine(
    bundle: Bundle,
    threads: int | None = None,
    role_files: dict[str, Path] | None = None,
    activations: str | None = None,
    device: str = CPU,
    kv_bits: int = 32,
) -> Engine:
    """Open a bundle's graphs in the runtime of its target.

    Args:
        bundle: a verified bundle.
        threads: CPU threads; None leaves the choice to the runtime.
        role_files: files to load in place of the bundle's own, by role (the parity gate's float twin).
        activations: "int8" or "float", for runtimes that decide it when they open a file; None: as the manifest says.
        device: what computes; one of the runtime's `devices`, or "cpu".
        kv_bits: of the cache's numbers; one of the runtime's.

    Raises:
        InputError: this installation has no runtime for the bundle's target, or it has no cache of these bits, it
            refuses a file, a graph is not what the manifest says, a file changed while it was being opened, or the
            cache is larger than memory.
        BackendMissing: the runtime's package is not installed.
    """
    target = bundle.manifest.target
    if target not in runtime_names():
        raise InputError(f"{bundle.folder}: no runtime for target {target!r} in this himix-edge")
    runtime = find_runtime(target)
    if kv_bits not in runtime.kv_bits:
        there = " or ".join(map(str, runtime.kv_bits))
        raise InputError(f"kv_bits is {kv_bits!r:.40}; {runtime.title} keeps its cache in {there} bits")
    files = {role: bundle.role_path(role) for role in bundle.manifest.roles} | (role_files or {})
    activations = activations or bundle.manifest.quantization.activations
    capacity = bundle.manifest.context_capacity
    failed = f"{bundle.folder}: the files of its {target} graphs cannot be loaded"
    with runtime_errors(failed), missing_packages(runtime):
        _refuse_too_large(bundle, capacity)
        load: Callable[..., Engine] = import_module(runtime.engine).load
        other: dict[str, object] = {} if device == CPU else {"device": device}
        if bundle.manifest.adapters is not None:
            if not runtime.adapters:
                raise InputError(f"{bundle.folder}: has places for adapters; {runtime.title} takes none")
            other["factors"] = no_adapter(bundle.config)
        if kv_bits != 32:
            other["kv_bits"] = kv_bits
        engine = load(files, bundle.config, capacity, threads, activations, **other)
    bundle.held.check_in_place()
    return CheckedEngine(engine, bundle.folder, bundle.config, bundle.held)


def _refuse_too_large(bundle: Bundle, capacity: int) -> None:
    """Raises InputError for a cache that this machine has not the memory for."""
    needed = cache_bytes(bundle.config, capacity)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return
    if needed > there:
        raise InputError(
            f"{bundle.folder}: the cache of its {capacity} slots takes {needed / 2**30:.1f} GiB, "
            f"this machine has {there / 2**30:.1f} GiB of memory"
        )
