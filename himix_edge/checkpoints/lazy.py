"""Weights that are read one tensor at a time, so that a model of any size is never held twice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from himix_edge.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for: its shape, and `read` giving it in the precision it is stored in."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Weights = Mapping[str, LazyTensor]  # parameter name -> where its values come from


def as_weights(tensors: Mapping[str, Tensor]) -> Weights:
    """Tensors that are in memory already, as weights."""
    return {name: LazyTensor(tuple(tensor.shape), partial(_itself, tensor)) for name, tensor in tensors.items()}


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def checked(weights: Weights, where: str) -> dict[str, LazyTensor]:
    """The weights, each looked at when it is read.

    Args:
        weights: from a file.
        where: the file or folder, for messages.

    Raises (later):
        InputError: a tensor of integers or 8-bit floats, which mean nothing without their scales, or that holds NaN or
            infinity; it is named.
    """
    return {name: LazyTensor(lazy.shape, partial(_checked, name, lazy, where)) for name, lazy in weights.items()}


def cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`tensor` as `dtype`.

    Raises:
        InputError: a number of it is beyond that type's range; `name` is in the message.
    """
    made = tensor.to(dtype)
    if made is not tensor and not is_finite(made):
        if not is_finite(tensor):
            raise InputError(f"{name}: holds NaN or infinite numbers")
        most, limit = float(tensor.abs().max()), torch.finfo(dtype).max
        kind = str(dtype).removeprefix("torch.")
        raise InputError(f"{name}: {most:.6g} is beyond {kind}, which ends at {limit:.6g}; store it as a wider type")
    return made


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in a tensor of floats."""
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax())  # NaN is both ends of its tensor


def _checked(name: str, lazy: LazyTensor, where: str) -> Tensor:
    tensor = lazy.read()
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{where}: {name} is stored as {kind}; only float16, bfloat16, float32 and float64 are read")
    if not is_finite(tensor):
        bad = int(tensor.numel() - tensor.isfinite().sum())
        raise InputError(f"{where}: {name}: {bad} of its {tensor.numel()} numbers are NaN or infinite; a damaged model")
    return tensor
