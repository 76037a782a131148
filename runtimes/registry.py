"""The runtimes that bundles run in: one record each, read without torch and without the runtime itself.

A runtime is a package in this folder whose `__init__` has a RUNTIME, or one of another distribution that declares an
entry point of the group "himix_edge.runtimes": `NAME = "its.module"`, the module that has the RUNTIME.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from himix_edge.discovery import discovered, record_of
from himix_edge.errors import BackendMissing, InputError

PACKAGE = GROUP = "himix_edge.runtimes"


@dataclass(frozen=True)
class Provider:
    """What computes, under its name in a benchmark record, and what a reader of the times has to know."""

    name: str = "cpu"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PythonBoard:
    """A board runs it in Python, with NumPy and the first of the runtime's packages.

    `modules`: the modules that go there, beside `himix_edge.errors`, `.config` (which a board has in a short form),
    `.runtimes.engine` and `.runtimes.ports`: the engine, and whatever it imports at its top.
    """

    modules: tuple[str, ...]


@dataclass(frozen=True)
class ProgramBoard:
    """A board runs it in a program that answers in lines of JSON: see `himix_edge.bench.devices.program_board`.

    `program` is its name there, `variable` the environment variable that names another; `how` says where to get it.
    """

    program: str
    variable: str
    how: str


@dataclass(frozen=True)
class Runtime:
    """What is known of a target without opening it."""

    name: str  # the target's name in manifests and on the command line
    title: str  # for people
    ending: str  # of each role's main file
    packages: tuple[str, ...]  # pip packages whose versions go into records, the runtime itself first
    modules: tuple[str, ...]  # imported before a benchmark's clock runs
    extra: str  # pip install 'himix-edge[EXTRA]' brings what makes and runs it
    run_extra: str = ""  # what only runs it; "": the same
    engine: str = ""  # the module with `load`; "": `engine` in the package that has the record
    in_all: bool = True  # whether `--target all` means it too
    reads: Callable[[Path, str], Iterable[str]] = lambda folder, name: ()  # what it reads beside a role's main file
    board: PythonBoard | ProgramBoard | None = None  # None: no board runs it
    app: bool = False  # whether the Android app opens it
    adapters: bool = False  # whether its graphs may take adapters: `load` then takes `factors`
    provider: Callable[[], Provider] = Provider  # what computes on this machine
    devices: Callable[[], tuple[str, ...]] = tuple  # what else it can compute on, on this machine
    preferred: Callable[[], tuple[str, ...]] = tuple  # those of `devices` that are tried where nobody chose

    kv_bits: tuple[int, ...] = (32,)  # of the cache's numbers; its `load` takes `kv_bits` if there is more than 32

    @property
    def runs_with(self) -> str:
        """The pip extra that brings what it takes to run a bundle."""
        return self.run_extra or self.extra


def runtime_names() -> list[str]:
    """Every target of this installation. Imports none of them."""
    return list(discovered(PACKAGE, GROUP))


def find_runtime(name: str) -> Runtime:
    """The record of the target `name`. Raises InputError listing the known ones."""
    module, found = record_of(PACKAGE, GROUP, name, "RUNTIME")
    if not isinstance(found, Runtime) or found.name != name:
        raise InputError(f"target {name}: RUNTIME in {module} is no record of that name")
    return found if found.engine else dataclasses.replace(found, engine=f"{module}.engine")


def all_runtimes() -> list[Runtime]:
    """The record of every target."""
    return [find_runtime(name) for name in runtime_names()]


def extras_of(names: str) -> str:
    """The pip extras that export to targets, given as `--target` takes them: names with commas, or all."""
    known = {runtime.name: runtime for runtime in all_runtimes()}
    every = [name for name, runtime in known.items() if runtime.in_all]
    wanted = every if names == "all" else [name.strip() for name in names.split(",")]
    return ",".join(dict.fromkeys(known[name].extra if name in known else name for name in wanted))


@contextlib.contextmanager
def missing_packages(runtime: Runtime) -> Iterator[None]:
    """Raises BackendMissing, whose text has the pip line, where a package of the runtime cannot be imported."""
    try:
        yield
    except ImportError as error:
        package = (error.name or runtime.packages[0]).partition(".")[0]
        if package == "himix_edge":
            raise
        raise BackendMissing(package, runtime.runs_with) from None
