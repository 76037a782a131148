"""Stands in for `himix_edge.runtimes.engine` on a board: the engines' files take only a type from it."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Array = NDArray[np.generic]
