"""himix-edge: take a HiMix vision-language model from PyTorch to the devices people hold.

    import himix_edge as hx

Each name below is read from its module when it is first used, so importing this package needs neither PyTorch nor a
runtime, and what does need one says so when it is called.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from himix_edge.checkpoints import load_checkpoint, save_checkpoint
    from himix_edge.errors import BackendMissing, GateRefused, HimixError, InputError
    from himix_edge.export.pipeline import export as export_bundle
    from himix_edge.export.request import ExportRequest
    from himix_edge.export.request import plan as plan_export
    from himix_edge.runtimes.image_kv import ImageKV
    from himix_edge.runtimes.opening import open_bundle, open_checkpoint
    from himix_edge.runtimes.pool import SessionPool, open_pool
    from himix_edge.runtimes.session import Session
    from himix_edge.runtimes.structure import Structure

__all__ = [
    "BackendMissing",
    "ExportRequest",
    "GateRefused",
    "HimixError",
    "ImageKV",
    "InputError",
    "Session",
    "SessionPool",
    "Structure",
    "__version__",
    "export_bundle",
    "load_checkpoint",
    "open_bundle",
    "open_checkpoint",
    "open_pool",
    "plan_export",
    "save_checkpoint",
]
__version__ = version("himix-edge")

_HOMES = {  # name -> module, and the name there
    "BackendMissing": ("himix_edge.errors", "BackendMissing"),
    "ExportRequest": ("himix_edge.export.request", "ExportRequest"),
    "GateRefused": ("himix_edge.errors", "GateRefused"),
    "HimixError": ("himix_edge.errors", "HimixError"),
    "ImageKV": ("himix_edge.runtimes.image_kv", "ImageKV"),
    "InputError": ("himix_edge.errors", "InputError"),
    "Session": ("himix_edge.runtimes.session", "Session"),
    "SessionPool": ("himix_edge.runtimes.pool", "SessionPool"),
    "Structure": ("himix_edge.runtimes.structure", "Structure"),
    "export_bundle": ("himix_edge.export.pipeline", "export"),
    "load_checkpoint": ("himix_edge.checkpoints", "load_checkpoint"),
    "open_bundle": ("himix_edge.runtimes.opening", "open_bundle"),
    "open_checkpoint": ("himix_edge.runtimes.opening", "open_checkpoint"),
    "open_pool": ("himix_edge.runtimes.pool", "open_pool"),
    "plan_export": ("himix_edge.export.request", "plan"),
    "save_checkpoint": ("himix_edge.checkpoints", "save_checkpoint"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _HOMES[name]
    value: object = getattr(import_module(module), there)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
