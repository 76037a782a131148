"""himix-edge: take a HiMix vision-language model from PyTorch to the devices people hold.

Importing this package imports neither torch nor any exporter; `load_checkpoint` and `save_checkpoint` do so when used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from himix_edge.checkpoints import load_checkpoint, save_checkpoint

__all__ = ["__version__", "load_checkpoint", "save_checkpoint"]
__version__ = version("himix-edge")


def __getattr__(name: str) -> Any:
    if name in ("load_checkpoint", "save_checkpoint"):
        return getattr(import_module("himix_edge.checkpoints"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
