"""The export targets. A target is a package here whose `__init__` has a TARGET, or one of another distribution that
declares an entry point of the group "himix_edge.targets": `NAME = "its.module"`, the module that has the TARGET.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from himix_edge.bundle import Bundle
from himix_edge.discovery import discovered, record_of
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedTensor
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.registry import find_runtime

PACKAGE, GROUP = "himix_edge.export.targets", "himix_edge.targets"


@dataclass(frozen=True)
class ExportOptions:
    """What a target needs to know beside the model: cache slots, and whether activations may be int8."""

    capacity: int
    int8_activations: bool


class Target(Protocol):
    """One runtime's format."""

    name: str
    extra: str  # the pip extra that brings its packages
    in_all: bool  # whether `--target all` means it too
    disk: tuple[float, float]  # what an export needs, in sizes of its bundle: float, quantised; measured on nano
    activations: (
        Literal["float16", "int8"] | None
    )  # what its files always compute in; None: float32, or int8 as ExportOptions says

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


def find_target(name: str) -> Target:
    """The target called `name`. Raises InputError listing the known ones."""
    target: Target = record_of(PACKAGE, GROUP, name, "TARGET")[1]
    return target


def find_targets(names: str) -> list[str]:
    """Target names from a list with commas, or "all"; raises InputError listing the known ones."""
    every = [name for name in target_names() if find_runtime(name).in_all]
    chosen = every if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        find_target(name)
    return list(dict.fromkeys(chosen))


def target_names() -> list[str]:
    """Every target of this installation. Imports none of them."""
    return list(discovered(PACKAGE, GROUP))
