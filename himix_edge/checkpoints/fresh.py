"""Weights nobody trained: for a new injection, and to build a preset at its full size without a checkpoint."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from himix_edge.checkpoints.lazy import LazyTensor

INJECTION_GAIN = 0.1


def fresh_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, LazyTensor]:
    """Reproducible initial values, bfloat16, each tensor generated when it is read.

    A tensor depends on the seed and its own name only. Matrices and convolutions: normal, std fan_in^-0.5; embeddings
    and positions: std 0.02; norms and layer scales: 1; biases and slots' terms: 0. The image's projections are ten
    times smaller, to disturb a language model less before it has learned to look.
    """
    return {name: LazyTensor(shape, _reader(name, shape, seed)) for name, shape in shapes.items()}


def _reader(name: str, shape: tuple[int, ...], seed: int) -> Callable[[], Tensor]:
    return lambda: _initial(name, shape, seed)


def _initial(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("bias") or ".slots_img." in name:
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1 and "token" not in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    table = len(shape) < 2 or any(word in name for word in ("embed_tokens", "position", "token"))
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    std = 0.02 if table else fan_in**-0.5
    if "_proj_img" in name:
        std *= INJECTION_GAIN
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=std, generator=generator)
