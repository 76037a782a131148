"""The export targets. A target is a package here whose `__init__` has a TARGET, or one of another distribution that
declares an entry point of the group "himix_edge.targets": `NAME = "its.module"`, the module that has the TARGET.
"""

from himix_edge.discovery import discovered, record_of
from himix_edge.export.target import Target
from himix_edge.runtimes.registry import find_runtime

PACKAGE, GROUP = "himix_edge.export.targets", "himix_edge.targets"


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
