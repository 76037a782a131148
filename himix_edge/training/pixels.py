"""Images of a training run at the size that the tower takes, kept as files where the user gives a folder for them."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import VisionConfig
from himix_edge.files import disk_errors
from himix_edge.preprocess import Picture, load_image

MEMORY_BYTES = 512 << 20

Load = Callable[[Path | Picture], NDArray[np.uint8]]


def image_loader(vision: VisionConfig, folder: Path | None = None) -> Load:
    """`load_image` at one size, uint8 (1, S, S, 3), with the last 512 MiB of pixels kept in memory.

    Args:
        vision: says size and filter.
        folder: where every image's pixels are kept as well, for later epochs, runs and processes beside this one.
    """

    @lru_cache(maxsize=max(1, MEMORY_BYTES // (3 * vision.image_size**2)))
    def load(image: Path | Picture) -> NDArray[np.uint8]:
        if folder is None:
            return load_image(image, vision.image_size, vision.resample)
        return _kept(image, vision, folder)

    return load


def _kept(image: Path | Picture, vision: VisionConfig, folder: Path) -> NDArray[np.uint8]:
    what = [image, vision.image_size, vision.resample, image.stat().st_mtime_ns if isinstance(image, Path) else 0]
    path = folder / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        pixels = load_image(image, vision.image_size, vision.resample)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        with staged.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
        staged.rename(path)
    return pixels
