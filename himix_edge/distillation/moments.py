"""Linear maps between tokens' vectors, by least squares over images that are seen once.

What a fit needs, and what tells how good it is on other images, are sums over images: of products, of inputs, of
outputs. N slots (tokens of an image), D inputs, Y outputs; all of it float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Constant = Literal["none", "all", "slot"]  # what a map adds: nothing, the same in all slots, or in each its own


class Moments:
    """Sums over images of inputs x (N, D) and outputs y (N, Y)."""

    def __init__(self, slots: int, inputs: int, outputs: int):
        self.images = 0
        self.xx, self.xy = _zeros(inputs, inputs), _zeros(inputs, outputs)
        self.x, self.y, self.yy = _zeros(slots, inputs), _zeros(slots, outputs), _zeros(outputs)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Some images': x (B, N, D), y (B, N, Y)."""
        x, y = x.double(), y.double()
        rows, targets = x.flatten(0, 1), y.flatten(0, 1)
        self.images += len(x)
        self.xx.addmm_(rows.T, rows)
        self.xy.addmm_(rows.T, targets)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.yy += targets.square().sum(0)

    def variance(self) -> Tensor:
        """(Y,): squared distances of each output from its mean over all slots and images."""
        return self.yy - self.y.sum(0).square() / (self.images * len(self.y))

    def errors(self, fit: "Map") -> Tensor:
        """(Y,): squared distances of each output from what a map makes of the inputs."""
        weight, constant = fit.weight, fit.constant
        linear = (weight * (self.xx @ weight - 2 * self.xy)).sum(0)
        added = (constant * (self.images * constant + 2 * (self.x @ weight - self.y))).sum(0)
        return self.yy + linear + added


@dataclass(frozen=True)
class Map:
    """y = x @ weight + constant: weight (D, Y), constant (N, Y)."""

    weight: Tensor
    constant: Tensor


def ridge(moments: Moments, constant: Constant, strengths: tuple[float, ...]) -> Iterator[Map]:
    """The maps closest to the outputs, with each strength of a penalty on the weight's squares; the constant is free.

    Args:
        moments: of the images to fit.
        constant: what the map may add.
        strengths: of the penalty, as shares of the inputs' mean square.
    """
    count, slots = moments.images, len(moments.x)
    if constant == "slot":
        x, y = moments.x / count, moments.y / count
    elif constant == "all":
        x, y = ((sums.sum(0) / (count * slots)).expand(slots, -1) for sums in (moments.x, moments.y))
    else:
        x, y = torch.zeros_like(moments.x), torch.zeros_like(moments.y)
    gram = moments.xx - count * x.T @ x
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ (moments.xy - count * x.T @ y)
    for strength in strengths:
        weight = vectors @ (turned / (values.clamp_min(0) + strength * gram.diagonal().mean())[:, None])
        yield Map(weight, y - x @ weight)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
