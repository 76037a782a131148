"""What is timed of every runtime. Standard library only: the environments of other runtimes import it too."""

from collections.abc import Callable

TILES = {1: (0, 0), 5: (2, 2)}  # how many, and the rows and columns of their grid: the whole picture comes last
PROMPT, DECODED = "What is in the picture?", 32
Timings = dict[str, Callable[[], float]]
