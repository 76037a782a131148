"""Building on the meta device, where a model has shapes and no values, without computing what nobody will read.

What torch computes there first costs its compiler's import (2 s), and each random weight some 10 ms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_)


@contextmanager
def meta_device() -> Iterator[None]:
    """Within, tensors are made on the meta device and initialisation does nothing."""
    with torch.device("meta"), _NoInitialization():
        yield


def register_pixel_norm(tower: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """The buffers `mean` and `std` (3,) of a tower, in pixel values (0..255), on the default device."""
    for name, values in (("mean", mean), ("std", std)):
        scaled = torch.tensor(values, device="cpu") * 255
        tower.register_buffer(name, scaled.to(torch.get_default_device()), persistent=False)


class _NoInitialization(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
