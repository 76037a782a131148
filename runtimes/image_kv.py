"""ImageKV: an image's keys and values for every layer. Computed once, kept, saved, used under any prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from himix_edge.errors import InputError
from himix_edge.files import staged_file
from himix_edge.runtimes.engine import Floats

FORMAT = "himix-image-kv-1"
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class ImageKV:
    """key, value float32 (I, G, N, h), I as in `ModelConfig.vision_rows`.

    `model_id` names the tower and injection weights that made them.

    `next_position` is the rotary position of the first text token behind it: 0 for HiMix, N for a vanilla model.
    """

    key: Floats
    value: Floats
    model_id: str
    next_position: int = 0

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
        with staged_file(Path(path), is_image_kv) as staged:
            # safetensors writes an array's memory as it lies, whatever its strides say
            tensors = {"key": np.ascontiguousarray(self.key), "value": np.ascontiguousarray(self.value)}
            save_file(tensors, staged, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "ImageKV":
        """Read what `save` wrote. Raises InputError if it is missing, damaged or something else."""
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB; this is not a saved ImageKV")
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or set(file.keys()) != {"key", "value"}:
                    raise InputError(f"{path}: not a saved ImageKV")
                key, value = file.get_tensor("key"), file.get_tensor("value")
            position = int(metadata["next_position"])
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: damaged or not a saved ImageKV ({error})") from None
        if key.ndim != 4 or key.shape != value.shape or key.dtype != np.float32 or value.dtype != np.float32:
            raise InputError(f"{path}: not a saved ImageKV (key {key.shape} {key.dtype}, value {value.shape})")
        return cls(key, value, metadata.get("model_id", ""), position)


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
