"""Weights that are read one tensor at a time, so that a model of any size is never held twice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor


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
