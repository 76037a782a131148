"""Writing checkpoints: safetensors in shards, one shard in memory at a time."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from himix_edge.checkpoints.lazy import Weights, cast, is_finite
from himix_edge.errors import InputError

SHARD_BYTES = 2 << 30


def save_weights(folder: Path, weights: Weights, dtype: torch.dtype | None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write model.safetensors, or its shards and model.safetensors.index.json as Hugging Face does.

    Args:
        folder: an existing, empty folder.
        weights: what to write; read one tensor after the other.
        dtype: what to store floats as; None: as they are read.
        shard_bytes: a shard is closed when it is at least this large.

    Raises:
        InputError: a number is NaN, infinite or beyond `dtype`'s range; its tensor is named.
    """
    shards: list[list[str]] = [[]]
    pending: dict[str, torch.Tensor] = {}
    for name, lazy in weights.items():
        tensor = lazy.read()
        tensor = cast(tensor, dtype or tensor.dtype, name)
        if not is_finite(tensor):
            raise InputError(f"{name}: holds NaN or infinite numbers; nothing is written")
        pending[name] = tensor.contiguous()
        shards[-1].append(name)
        if sum(t.nbytes for t in pending.values()) >= shard_bytes:
            save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
            pending = {}
            shards.append([])
    if pending or len(shards) == 1:
        save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
    else:
        shards.pop()
    if len(shards) == 1:
        (folder / "shard-1").rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}").rename(folder / file)
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=2))
