"""How fast this machine reads memory: the roof over every generated token, which reads all of the decoder's weights."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BUFFER_BYTES = 256 << 20  # larger than any cache
ROUNDS = 6


def read_bandwidth(threads: int | None = None) -> float:
    """Gigabytes (1e9) a second: the best of six passes of all threads over 256 MB, each over its own part.

    NumPy's float32 maximum is vectorised, releases the interpreter lock, and writes nothing.
    """
    count = threads or os.cpu_count() or 1
    parts = np.array_split(np.ones(BUFFER_BYTES // 4, np.float32), count)
    best = float("inf")
    with ThreadPoolExecutor(count) as pool:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - began)
    return BUFFER_BYTES / best / 1e9
