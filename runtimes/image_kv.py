"""ImageKV: an image's keys and values for every layer. Computed once, kept, saved, used under any prompt."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from himix_edge.errors import InputError
from himix_edge.files import as_path, staged_file
from himix_edge.preprocess import ImageSource, is_image
from himix_edge.reading import open_regular
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.packed import BITS, FLOAT_BITS, Packed, pack

FORMAT, PACKED_FORMAT = "himix-image-kv-1", "himix-image-kv-2"  # in float32; in 16 or 8 bits
MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 1 << 16
KEY_AXIS, VALUE_AXIS = 2, 3  # numbers that share a scale: a channel's keys, a token's values (KIVI, arXiv 2402.02750)
Stored = Floats | Packed


class ImageKV:
    """What the decoder's attention sees of an image: the extra keys and values of HiMix (arXiv 2501.10318, section 3).

    Attributes:
        model_id: names the tower and injection weights that made them.
        next_position: rotary position of the first text token behind it: 0 for HiMix, N for a vanilla model.
    """

    def __init__(self, key: Stored, value: Stored, model_id: str, next_position: int = 0):
        """Take what the injector gives.

        Args:
            key: float32 (I, G, N, h): I rows as in `ModelConfig.vision_rows` (one for each layer that sees the image,
                unless layers share them), G key/value heads, N image tokens, h numbers a head.
            value: float32 (I, G, N, h).
            model_id: see above.
            next_position: see above.

        Raises:
            InputError: arrays that no model gives: another type or shape, NaN, infinity.
        """
        if not (_is_stored(key) and _is_stored(value)) or _numbers(key).shape != _numbers(value).shape:
            raise InputError("an image's key and value must be float32 arrays of one shape (I, G, N, h)")
        if not all(x.is_finite() if isinstance(x, Packed) else np.isfinite(x).all() for x in (key, value)):
            raise InputError(
                "an image's keys and values hold NaN or infinity; they, or the model's weights, are damaged"
            )
        self._key, self._value, self.model_id, self.next_position = key, value, model_id, next_position

    @property
    def key(self) -> Floats:
        """float32 (I, G, N, h); with fewer `bits` made anew by each call."""
        return self._key.floats() if isinstance(self._key, Packed) else self._key

    @property
    def value(self) -> Floats:
        """float32 (I, G, N, h); with fewer `bits` made anew by each call."""
        return self._value.floats() if isinstance(self._value, Packed) else self._value

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(I, G, N, h)."""
        rows, heads, tokens, size = _numbers(self._key).shape
        return rows, heads, tokens, size

    @property
    def tokens(self) -> int:
        """N, the cache slots it fills."""
        return self.shape[2]

    @property
    def bits(self) -> int:
        """Of each number in memory: 32, 16 or 8."""
        return self._key.bits if isinstance(self._key, Packed) else FLOAT_BITS

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._key.nbytes + self._value.nbytes

    def in_bits(self, bits: int) -> "ImageKV":
        """The same in fewer bits: a half or about a quarter of the memory, and of the saved file.

        16 bits are float16. 8 bits are int8 with a scale for each channel of a head's keys and each token of a head's
        values. Sessions take either as they take float32; what is rounded once is not rounded again.

        Args:
            bits: 32, 16 or 8. What has fewer already stays as it is.

        Raises:
            InputError: another number; 16, where a number is beyond 65504.
        """
        if bits not in BITS:
            raise InputError(f"bits is {bits!r:.40}; an image's keys and values are kept in 32, 16 or 8")
        if bits >= self.bits:
            return self
        key, value = pack(self.key, bits, KEY_AXIS), pack(self.value, bits, VALUE_AXIS)
        return ImageKV(key, value, self.model_id, self.next_position)

    def save(self, path: str | Path, bits: int = FLOAT_BITS) -> None:
        """Write it as a safetensors file, atomically; an earlier one there is replaced.

        Args:
            path: the file.
            bits: see `in_bits`; what has fewer is written as it is.

        Raises:
            InputError: the file holds something else, or cannot be written; as `in_bits`.
        """
        kept = self.in_bits(bits)
        name = FORMAT if kept.bits == FLOAT_BITS else PACKED_FORMAT
        metadata = {"model_id": self.model_id, "next_position": str(self.next_position), "format": name}
        # safetensors writes an array's memory as it lies, whatever its strides say
        tensors = {name: np.ascontiguousarray(array) for name, array in kept._tensors().items()}
        with staged_file(as_path(path), is_image_kv) as staged:
            save_file(tensors, staged, metadata)

    @classmethod
    def load(cls, path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> "ImageKV":
        """Read what `save` wrote; its `bits` stay as they are.

        Raises:
            InputError: it is missing, damaged, something else, or larger than `max_bytes` in float32, which a session
                knows (`Session.max_image_kv_bytes`).
        """
        path = as_path(path)
        try:
            _refuse_large(path, max_bytes)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                key, value = _parts(file, metadata.get("format", ""), path, max_bytes)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or not a saved ImageKV ({error})") from None
        position = metadata.get("next_position", "")
        if not re.fullmatch(r"[0-9]{1,7}", position, re.ASCII):
            raise InputError(f"{path}: next_position is {position[:40]!r}, which no image has")
        try:
            return cls(key, value, metadata.get("model_id", ""), int(position))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def _tensors(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, stored in (("key", self._key), ("value", self._value)):
            found[name] = _numbers(stored)
            if isinstance(stored, Packed) and stored.scales is not None:
                found[f"{name}_scale"] = stored.scales
        return found


def _numbers(stored: Stored) -> Array:
    return stored.numbers if isinstance(stored, Packed) else stored


def _is_stored(given: object) -> bool:
    if isinstance(given, Packed):
        return True
    return isinstance(given, np.ndarray) and given.ndim == 4 and given.dtype == np.float32


def _parts(file: Any, name: str, path: Path, max_bytes: int) -> tuple[Stored, Stored]:
    """Key and value of an open safetensors file whose `format` is `name`. Raises InputError for other tensors."""
    names = file.keys()
    found = {tensor: file.get_slice(tensor) for tensor in names}
    kinds = {tensor: (part.get_dtype(), tuple(part.get_shape())) for tensor, part in found.items()}
    if name not in (FORMAT, PACKED_FORMAT) or not {"key", "value"} <= kinds.keys():
        raise InputError(f"{path}: not a saved ImageKV")
    dtype, shape = kinds["key"]
    allowed = ("F32",) if name == FORMAT else ("F16", "I8")
    if kinds["value"] != (dtype, shape) or dtype not in allowed or len(shape) != 4:
        words = "float32" if name == FORMAT else "float16 or int8"
        raise InputError(f"{path}: key and value are not {words} of one shape (I, G, N, h)")
    expected = {"key": kinds["key"], "value": kinds["value"]}
    if dtype == "I8":
        for tensor, axis in (("key", KEY_AXIS), ("value", VALUE_AXIS)):
            expected[f"{tensor}_scale"] = "F32", (*shape[:axis], 1, *shape[axis + 1 :])
    if kinds != expected:
        wrong = min(expected.items() ^ kinds.items())[0]
        raise InputError(f"{path}: {wrong!r:.40} is not what an ImageKV of {dtype} {list(shape)} has")
    if 8 * math.prod(shape) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 20} MiB in float32; it is not an ImageKV that fits here")
    if name == FORMAT:
        return found["key"][:], found["value"][:]
    scales = {tensor: found[f"{tensor}_scale"][:] if dtype == "I8" else None for tensor in ("key", "value")}
    return Packed(found["key"][:], scales["key"]), Packed(found["value"][:], scales["value"])


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
            return bool((file.metadata() or {}).get("format") in (FORMAT, PACKED_FORMAT))
    except (SafetensorError, OSError, ValueError):
        return False


def concat(images: Sequence[ImageKV]) -> ImageKV:
    """Several images' K/V, one behind the other; of more than one in float32.

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
