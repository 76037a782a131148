"""Where targets come from: packages of this project, and entry points of other installed distributions."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from himix_edge.errors import InputError, one_line


@cache
def discovered(package: str, group: str) -> dict[str, str]:
    """Name -> module, without importing any: the packages right below `package`, then the entry points of `group`.

    An entry point cannot take the place of one of our own packages.
    """
    others = {point.name: point.module for point in entry_points(group=group)}
    folders = import_module(package).__path__
    own = [found.name for found in iter_modules(folders) if found.ispkg]
    return dict(sorted((others | {name: f"{package}.{name}" for name in own}).items()))


def record_of(package: str, group: str, name: str, attribute: str) -> tuple[str, Any]:
    """The module of one that was discovered, and what it calls `attribute`.

    Raises InputError listing the known names, or saying what is wrong with an entry point.
    """
    known = discovered(package, group)
    if name not in known:
        raise InputError(f"unknown target {name!r:.60}; known: {', '.join(known)}")
    module = known[name]
    try:
        return module, getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if module.startswith(f"{package}."):  # one of our own
            raise
        said = one_line(str(error))
        raise InputError(f"target {name}: its entry point {module} ({group}) cannot be used: {said}") from None
