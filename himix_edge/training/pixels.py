"""Images of a training run at the size that the tower takes, kept as files where the user gives a folder for them."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from himix_edge.config import VisionConfig
from himix_edge.data.image_files import is_file
from himix_edge.disk import disk_errors
from himix_edge.errors import InputError
from himix_edge.preprocess import Picture, load_image

MEMORY_BYTES = 512 << 20

Load = Callable[[Path | Picture], NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageLoader:
    """`load_image` at one size: image -> uint8 (1, S, S, 3), the last 512 MiB of pixels kept in memory.

    Attributes:
        vision: says size and filter.
        folder: where every image's pixels are kept as well, for later epochs, runs and processes beside this one.
    """

    vision: VisionConfig
    folder: Path | None = None

    def __call__(self, image: Path | Picture) -> NDArray[np.uint8]:
        return self._remembered(image)

    def __getstate__(self) -> dict[str, object]:
        """For another process: without what this one has in memory."""
        return {"vision": self.vision, "folder": self.folder}

    @cached_property
    def _remembered(self) -> Load:
        return lru_cache(maxsize=max(1, MEMORY_BYTES // (3 * self.vision.image_size**2)))(self._load)

    def _load(self, image: Path | Picture) -> NDArray[np.uint8]:
        if self.folder is None:
            return load_image(image, self.vision.image_size, self.vision.resample)
        return _kept(image, self.vision, self.folder)


def _kept(image: Path | Picture, vision: VisionConfig, folder: Path) -> NDArray[np.uint8]:
    what = [image, vision.image_size, vision.resample, _changed(image) if isinstance(image, Path) else 0]
    path = folder / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.npy"
    shape = (1, vision.image_size, vision.image_size, 3)
    try:
        kept: NDArray[np.uint8] = np.load(path, allow_pickle=False) if is_file(path) else np.zeros(0, np.uint8)
    except (OSError, ValueError, EOFError, MemoryError):  # damaged
        kept = np.zeros(0, np.uint8)
    if kept.shape == shape and kept.dtype == np.uint8:
        return kept
    pixels = load_image(image, vision.image_size, vision.resample)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        with staged.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
        with contextlib.suppress(FileNotFoundError):  # taken for a killed run's, by one on another machine
            staged.replace(path)
    return pixels


def _changed(image: Path) -> int:
    try:
        return image.stat().st_mtime_ns
    except (OSError, ValueError):
        raise InputError(f"{image}: no such image") from None


def clear_leftovers(folder: Path) -> None:
    """Remove what runs that were killed had begun to write into a folder of pixels."""
    for path in folder.glob("*.tmp"):
        unfinished = re.fullmatch(r"[0-9a-f]{32}\.([0-9]{1,9})\.tmp", path.name)
        if unfinished and not psutil.pid_exists(int(unfinished[1])):
            with contextlib.suppress(OSError):
                path.unlink()
