"""What `pip install 'himix-edge[EXTRA]'` brings, and how an optional package is imported.

The extras themselves are in pyproject.toml; a test compares. A target's are in its record, see `runtimes.registry`.
"""

import contextlib
from collections.abc import Iterator

from himix_edge.errors import BackendMissing

TORCH = "torch"  # to run a model in PyTorch, or count its costs, and nothing else
CONVERT = "convert"
CHECK = "check"  # to compare a converted model with transformers' own processor
TRAIN = "train"
SERVE = "serve"
HUB = "hub"
STRUCTURE = "structure"
MMMU = "mmmu"
CLUSTER = "cluster"


@contextlib.contextmanager
def needed(package: str, extra: str) -> Iterator[None]:
    """Around the imports of an optional package: raises BackendMissing, with the pip line, if it is not installed."""
    try:
        yield
    except ImportError:
        raise BackendMissing(package, extra) from None
