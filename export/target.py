"""What an export target is: see docs/adding-a-target.md."""

import importlib.metadata
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from himix_edge.bundle import Bundle
from himix_edge.errors import BackendMissing
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedTensor
from himix_edge.export.tolerance import Activations, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.reading import JsonObject
from himix_edge.runtimes.engine import Engine


@dataclass(frozen=True)
class ExportOptions:
    """What a target needs to know beside the model: cache slots, whether activations may be int8, chips, and the
    largest rank of adapters that the graphs take (0: they take none)."""

    capacity: int
    int8_activations: bool
    chips: tuple[str, ...] = ()
    adapter_rank: int = 0


class Target(Protocol):
    """One runtime's format."""

    name: str
    extra: str  # the pip extra that brings its packages
    disk: tuple[float, float]  # what an export needs, in sizes of its bundle: float, quantized; measured on nano
    activations: Activations | None  # what its files always compute in; None: float, or int8 as ExportOptions says
    tolerances: Tolerances  # how close its files must come to the reference

    def tools(self) -> dict[str, str]:
        """Name -> version of the packages that make and run this target. Raises BackendMissing."""
        ...

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        """Role -> function that writes the role's files into a folder and returns them, main file first."""
        ...

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The exported files in a mode that has to equal `exact_reference` closely; `scratch` is for helper files.

        Raises GateRefused if the runtime does not run them as intended.
        """
        ...

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        """What `exact_engine` computes: the reference, with whatever rounding the format cannot avoid."""
        ...

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        """Parameter names with integers and scales, read back out of the exported files one by one."""
        ...


@runtime_checkable
class ChipTarget(Target, Protocol):
    """A target that compiles for chips, too: `stages` does it for those in its options."""

    def check_chips(self, chips: Collection[str]) -> dict[str, str]:
        """Name -> version of the packages that compile. Raises InputError for an unknown chip, BackendMissing."""
        ...

    def chip_facts(self, folder: Path, chip: str) -> JsonObject:
        """What the manifest says of what `folder` has for the chip."""
        ...

    def chip_engine(self, bundle: Bundle, chip: str) -> AbstractContextManager[Engine]:
        """What was compiled for the chip, on it or emulated, in a process of its own."""
        ...


def versions(*packages: str, extra: str) -> dict[str, str]:
    """The installed versions of packages. Raises BackendMissing, naming `extra`, for one that is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise BackendMissing(package, extra) from None
    return found
