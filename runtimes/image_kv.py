"""ImageKV: an image's keys and values for every layer. Computed once, kept, saved, used under any prompt."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from himix_edge.errors import InputError
from himix_edge.files import as_path, staged_file
from himix_edge.preprocess import ImageSource, is_image
from himix_edge.reading import open_regular
from himix_edge.runtimes.engine import Floats

FORMAT = "himix-image-kv-1"
MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class ImageKV:
    """What the decoder's attention sees of an image: the extra keys and values of HiMix (arXiv 2501.10318, section 3).

    Attributes:
        key: float32 (I, G, N, h): I rows as in `ModelConfig.vision_rows` (one for each layer that sees the image,
            unless layers share them), G key/value heads, N image tokens, h numbers a head; as the injector gives them.
        value: float32 (I, G, N, h).
        model_id: names the tower and injection weights that made them.
        next_position: rotary position of the first text token behind it: 0 for HiMix, N for a vanilla model.
    """

    key: Floats
    value: Floats
    model_id: str
    next_position: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for arrays that no model gives: another type or shape, NaN, infinity."""
        key, value = self.key, self.value
        arrays = isinstance(key, np.ndarray) and isinstance(value, np.ndarray) and key.shape == value.shape
        if not arrays or key.ndim != 4 or key.dtype != np.float32 or value.dtype != np.float32:
            raise InputError("an image's key and value must be float32 arrays of one shape (I, G, N, h)")
        if not (np.isfinite(key).all() and np.isfinite(value).all()):
            raise InputError(
                "an image's keys and values hold NaN or infinity; they, or the model's weights, are damaged"
            )

    @property
    def tokens(self) -> int:
        """N, the cache slots it fills."""
        return int(self.key.shape[2])

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, atomically; an earlier one there is replaced.

        Raises:
            InputError: the file holds something else, or cannot be written.
        """
        metadata = {"model_id": self.model_id, "next_position": str(self.next_position), "format": FORMAT}
        with staged_file(as_path(path), is_image_kv) as staged:
            # safetensors writes an array's memory as it lies, whatever its strides say
            tensors = {"key": np.ascontiguousarray(self.key), "value": np.ascontiguousarray(self.value)}
            save_file(tensors, staged, metadata)

    @classmethod
    def load(cls, path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> "ImageKV":
        """Read what `save` wrote.

        Raises:
            InputError: it is missing, damaged, something else, or larger than `max_bytes`, which a session knows
                (`Session.max_image_kv_bytes`).
        """
        path = as_path(path)
        try:
            _refuse_large(path, max_bytes)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or set(file.keys()) != {"key", "value"}:
                    raise InputError(f"{path}: not a saved ImageKV")
                key, value = (file.get_slice(name) for name in ("key", "value"))
                kinds = {(part.get_dtype(), len(part.get_shape()), tuple(part.get_shape())) for part in (key, value)}
                if len(kinds) != 1 or next(iter(kinds))[:2] != ("F32", 4):
                    raise InputError(f"{path}: key and value are not float32 of one shape (I, G, N, h)")
                arrays = key[:], value[:]
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or not a saved ImageKV ({error})") from None
        position = metadata.get("next_position", "")
        if not re.fullmatch(r"[0-9]{1,7}", position, re.ASCII):
            raise InputError(f"{path}: next_position is {position[:40]!r}, which no image has")
        try:
            return cls(*arrays, metadata.get("model_id", ""), int(position))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _refuse_large(path: Path, max_bytes: int) -> None:
    """Raises InputError for what is no regular file, or larger than expected in whole or in its header."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = int.from_bytes(file.read(8), "little")
    if size > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 20} MiB; this is not a saved ImageKV that fits here")
    if header > MAX_HEADER_BYTES:
        raise InputError(f"{path}: damaged or not a saved ImageKV (its header says {header} bytes)")


def is_image_kv(path: Path) -> bool:
    """Whether a file says that it is a saved ImageKV, and so may be replaced by another."""
    try:
        with safe_open(path, framework="numpy") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except (SafetensorError, OSError, ValueError):
        return False


def concat(images: Sequence[ImageKV]) -> ImageKV:
    """Several images' K/V, one behind the other.

    Raises:
        InputError: they come from different models, or from a vanilla model, whose images depend on each other.
    """
    first = images[0]
    if len(images) == 1:
        return first
    if any(image.model_id != first.model_id for image in images):
        raise InputError("the images' keys and values were made by different models; encode them with this one")
    if first.next_position:
        raise InputError("a vanilla model takes one image: its image tokens have positions, so they cannot be joined")
    key = np.concatenate([image.key for image in images], axis=2)
    value = np.concatenate([image.value for image in images], axis=2)
    return ImageKV(key, value, first.model_id)


Image = ImageKV | ImageSource


def as_images(image: Image | Sequence[Image] | None) -> list[Image]:
    """What was given as one image, as several, or as none, as a list."""
    return [image] if _is_one(image) else list(image) if _are_several(image) else []


def _is_one(image: Image | Sequence[Image] | None) -> TypeGuard[Image]:
    return image is not None and (not isinstance(image, Sequence) or is_image(image))


def _are_several(image: Image | Sequence[Image] | None) -> TypeGuard[Sequence[Image]]:
    return isinstance(image, Sequence) and not is_image(image)
