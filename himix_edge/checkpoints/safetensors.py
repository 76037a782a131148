"""Hugging Face's safetensors folders: one file, or an index and its shards. Tensors are read one at a time."""

import re
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.errors import InputError
from himix_edge.reading import read_json

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_INDEX_BYTES = 64 << 20
MAX_NAME = 256
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.safetensors")


def folder_weights(folder: Path, stem: str = "model") -> dict[str, LazyTensor]:
    """The tensors of `stem`.safetensors, or of the shards that `stem`.safetensors.index.json names.

    Args:
        folder: where the files are.
        stem: "model" for Hugging Face's transformers.

    Raises:
        InputError: no safetensors there (a pickle is never opened), a missing, damaged or incomplete shard, a shard
            outside the folder.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if single.is_file():
        return file_weights(single)
    if not index.is_file():
        pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise InputError(f"{pickles[0]}: pickle weights are never opened; convert them to safetensors first")
        raise InputError(f"{single}: no such file")
    content = read_json(index, MAX_INDEX_BYTES)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise InputError(f"{index}: no weight_map of tensor names to files")
    shards = {}
    for place in sorted(set(places.values())):
        if not SHARD.fullmatch(place):
            what = "outside of the folder" if "/" in place or place == ".." else "not the name of a .safetensors file"
            raise InputError(f"{index}: shard {place[:80]!r} is {what}; refused")
        if not (folder / place).is_file():
            raise InputError(f"{folder / place}: missing; {index.name} names it, copy or download it again")
        shards[place] = file_weights(folder / place)
    for name, place in places.items():
        if name not in shards[place]:
            raise InputError(f"{folder / place}: no tensor {name}, which {index.name} says is there")
    every = {name: tensor for shard in shards.values() for name, tensor in shard.items()}  # unnamed ones count too
    return every | {name: shards[place][name] for name, place in places.items()}


def file_weights(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file. Raises InputError if it is damaged, also later when a tensor is read."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if strange := next((n for n in names if len(n) > MAX_NAME or not n.isprintable()), None):
                raise InputError(f"{path}: damaged: a tensor is called {strange[:40]!r}")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error})") from None
    return {name: LazyTensor(shape, partial(_read, path, name)) for name, shape in shapes.items()}


def _read(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged: {name} cannot be read ({error})") from None
