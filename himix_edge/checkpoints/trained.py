"""Checkpoints that hold only what was trained: base.json names the packages that the other weights come from.

A tensor of the file replaces the base's of that name; LINEAR.lora_A (r, in) and LINEAR.lora_B (out, r) are added to
LINEAR.weight as lora_scale * B A (Hu et al., arXiv 2106.09685).
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.packages import PACKAGES
from himix_edge.errors import InputError
from himix_edge.reading import read_json, validated

BASE = "base.json"


@dataclass(frozen=True)
class Base:
    """Where untrained weights come from, by the names of `packages.PACKAGES`, and the scale of the adapters."""

    decoder: str
    tower: str
    lora_scale: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    __pydantic_config__ = ConfigDict(extra="forbid")

    def save(self, folder: Path) -> None:
        """Write base.json."""
        (folder / BASE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_base(folder: Path) -> Base | None:
    """The folder's base.json; None if its checkpoint is a whole one. Raises InputError for names that are unknown."""
    path = folder / BASE
    if not path.is_file():
        return None
    base = validated(Base, read_json(path), str(path))
    package = PACKAGES.get(base.decoder)
    if package is None or not package.member.endswith(".gguf") or base.tower != "efficientnet-lite0":
        raise InputError(f"{path}: no weights are known for {base.decoder[:80]!r} with {base.tower[:80]!r}")
    return base


def is_adapter(name: str) -> bool:
    """Whether a trained tensor is half of a linear's adapter."""
    return name.endswith((".lora_A", ".lora_B"))


def overlay(base: Weights, trained: Weights, lora_scale: float, where: str) -> dict[str, LazyTensor]:
    """`base` with what was trained in place of it or added to it.

    Raises:
        InputError: an adapter without its other half, or that does not fit a tensor of the base; `where` and its name.
    """
    merged = dict(base)
    for name, tensor in trained.items():
        linear, _, kind = name.rpartition(".")
        if kind == "lora_A":
            up, weight = trained.get(f"{linear}.lora_B"), base.get(f"{linear}.weight")
            fits = up is not None and weight is not None and len(tensor.shape) == len(up.shape) == 2
            if up is None or weight is None or not fits or weight.shape != (up.shape[0], tensor.shape[1]):
                raise InputError(f"{where}: {name} fits no weight of the base")
            if tensor.shape[0] != up.shape[1]:
                raise InputError(f"{where}: {name} and {linear}.lora_B have different ranks")
            read = partial(_adapted, weight, tensor, up, lora_scale)
            merged[f"{linear}.weight"] = LazyTensor(weight.shape, read)
        elif kind != "lora_B":
            merged[name] = tensor
        elif f"{linear}.lora_A" not in trained:
            raise InputError(f"{where}: {name} has no {linear}.lora_A")
    return merged


def _adapted(weight: LazyTensor, down: LazyTensor, up: LazyTensor, scale: float) -> Tensor:
    return weight.read().to(torch.float32) + scale * (up.read().to(torch.float32) @ down.read().to(torch.float32))
