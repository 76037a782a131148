"""Adapters of low rank (Hu et al., arXiv 2106.09685) beside a model's linears: y = W x + x A B."""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from himix_edge.low_rank import Sizes, factor_names

EXAMPLE_RANK = 7  # no size that a model has, lest it be taken for that


class Factors:
    """The adapter that `Adapted` modules use at the moment: for each linear A (in, r) and B (r, out), float32."""

    def __init__(self, linears: Sizes):
        """`linears`: by name the numbers in and out. Tensors have to be `set` before the modules are called."""
        self.linears = linears
        self.names = factor_names(linears)
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copy of a model takes the same inputs

    def set(self, tensors: Sequence[Tensor]) -> None:
        """A and B of each linear in turn."""
        self._pairs = dict(zip(self.linears, zip(tensors[::2], tensors[1::2], strict=True), strict=True))

    def added(self, name: str, x: Tensor) -> Tensor:
        """What the adapter adds to a linear's output for its input x (..., in)."""
        down, up = self._pairs[name]
        return x @ down @ up

    def behind(
        self, arguments: tuple[object, ...], dynamic: tuple[object, ...] | None, most_rank: int
    ) -> tuple[tuple[object, ...], tuple[object, ...]]:
        """What `TakesFactors` is traced with: a module's arguments and their dynamic shapes, with an adapter behind
        them whose rank is any up to `most_rank`."""
        examples = [
            torch.zeros(size)
            for columns, rows in self.linears.values()
            for size in ((columns, EXAMPLE_RANK), (EXAMPLE_RANK, rows))
        ]
        rank = torch.export.Dim("rank", min=1, max=max(most_rank, EXAMPLE_RANK))
        shapes = [{1: rank}, {0: rank}] * len(self.linears)
        of_arguments = dynamic or (None,) * len(arguments)
        return (list(arguments), examples), (list(of_arguments), shapes)  # lists, as torch.onnx makes of tuples


class Adapted(nn.Module):
    """A linear, or several with one input whose outputs are side by side, and what an adapter adds."""

    def __init__(self, linear: nn.Module, names: Sequence[str], factors: Factors):
        super().__init__()
        self.linear, self.names, self.factors = linear, tuple(names), factors

    def forward(self, x: Tensor) -> Tensor:
        added = [self.factors.added(name, x) for name in self.names]
        out: Tensor = self.linear(x)
        return out + (added[0] if len(added) == 1 else torch.cat(added, dim=-1))


def adapt(module: nn.Module, factors: Factors, names: Iterable[str] | None = None, within: str = "") -> None:
    """Wrap linears below `module`, which is called `within` in its model, in place; `names`: all of the factors'."""
    for name in factors.linears if names is None else names:
        parent, _, leaf = name.removeprefix(within).rpartition(".")
        place = module.get_submodule(parent)
        setattr(place, leaf, Adapted(place.get_submodule(leaf), [name], factors))


class TakesFactors(nn.Module):
    """A module whose graph has an adapter's tensors as inputs behind its own."""

    def __init__(self, module: nn.Module, factors: Factors):
        super().__init__()
        self.module, self.factors = module, factors

    def forward(self, inputs: list[object], given: list[Tensor]) -> object:
        self.factors.set(given)
        return self.module(*inputs)
