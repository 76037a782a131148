"""What OpenVINO reads beside a graph."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def weights_of(folder: Path, name: str) -> Iterator[str]:
    """The weights of the graph `name`, which it takes from beside it."""
    yield str(PurePosixPath(name).with_suffix(".bin"))
