"""From the tower's features to embeddings of the decoder, see `config.Connector`."""

from math import isqrt

import torch
from torch import Tensor, nn

from himix_edge.config import Connector
from himix_edge.model.vit import pool_grid


class PixelShuffle(nn.Module):
    """Features (B, N, d) of a square grid -> (B, N / f^2, d f^2): f x f neighbours side by side, rows first."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        side, f = isqrt(x.shape[1]), self.factor
        cells = x.unflatten(1, (side // f, f, side // f, f))
        return cells.transpose(2, 3).flatten(3).flatten(1, 2)


class Newline(nn.Module):
    """Embeddings (B, N, d) -> (B, N + 1, d): a learned one behind them, the same for all."""

    def __init__(self, hidden: int):
        super().__init__()
        self.token = nn.Parameter(torch.empty(hidden))
        nn.init.normal_(self.token, std=hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.token.expand(x.shape[0], 1, -1)], 1)


class GridPooling(nn.Module):
    """Tokens (B, N, d) of a square grid -> (B, N / f^2, d): the mean of each f x f."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return pool_grid(x, self.factor)


class GridPositions(nn.Module):
    """Tokens (B, N, d) of a square grid, each with what a 3 x 3 filter of its channel gives there."""

    def __init__(self, channels: int):
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        side = isqrt(x.shape[1])
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        return x + self.filter(grid).flatten(2).transpose(1, 2)


def build_connector(config: Connector, features: int, hidden: int) -> nn.Sequential:
    """Features (B, N, `features`) -> embeddings (B, `config.tokens(N)`, `hidden`)."""
    width = features * config.shuffle**2
    parts: list[nn.Module] = [PixelShuffle(config.shuffle)] if config.shuffle > 1 else []
    if config.norm:
        parts.append(nn.LayerNorm(width))
    parts.append(nn.Linear(width, hidden, bias=config.bias))
    for _ in range(config.layers - 1):
        parts += [nn.GELU(), nn.Linear(hidden, hidden, bias=config.bias)]
    if config.pool > 1:
        parts.append(GridPooling(config.pool))
    if config.positions:
        parts.append(GridPositions(hidden))
    if config.newline:
        parts.append(Newline(hidden))
    return nn.Sequential(*parts)
