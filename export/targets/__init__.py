"""The export targets. A target is one file here with a `TARGET` object; the registry finds it by the file's name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal, Protocol

from himix_edge.bundle import Bundle
from himix_edge.errors import InputError
from himix_edge.export.quantisation import QuantizedModel, QuantizedTensor
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.engine import Engine


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
    if name not in target_names():
        raise InputError(f"unknown target {name!r}; known: {', '.join(target_names())}")
    target: Target = import_module(f"{__name__}.{name}").TARGET
    return target


def find_targets(names: str) -> list[str]:
    """Target names from a list with commas, or "all"; raises InputError listing the known ones."""
    every = [name for name in target_names() if find_target(name).in_all]
    chosen = every if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        find_target(name)
    return list(dict.fromkeys(chosen))


def target_names() -> list[str]:
    """Every target of this installation."""
    return sorted(module.name for module in iter_modules(__path__))
