"""Injection that several layers share (paper Fig. 4): one norm and one key and value projection for all of them."""

import torch
from torch import Tensor, nn

from himix_edge.config import DecoderConfig
from himix_edge.model.decoder import RMSNorm


class SharedInjection(nn.Module):
    """Vision features (B, N, d_v) -> one key and value (B, G, N, h) for each feature level.

    With several levels the features are theirs side by side, each d_v / levels wide; each has a connector (two linear
    layers around a GELU) of its own, and all share the norm and the projections. With one level there is no connector.
    """

    def __init__(self, config: DecoderConfig, vision_size: int, levels: int):
        super().__init__()
        size = vision_size // levels
        self.levels, self.kv_heads = levels, config.num_key_value_heads
        self.connectors = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))
                for _ in range(levels * (levels > 1))
            ]
        )
        self.input_layernorm_img = RMSNorm(size, config.rms_norm_eps)
        self.k_proj_img = nn.Linear(size, config.kv_size, bias=config.qkv_bias)
        self.v_proj_img = nn.Linear(size, config.kv_size, bias=config.qkv_bias)

    def forward(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not self.connectors:
            return [self._project(features)]
        levels = features.chunk(self.levels, dim=-1)
        return [self._project(connect(x)) for connect, x in zip(self.connectors, levels, strict=True)]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.input_layernorm_img(x)
        return self._split(self.k_proj_img(x)), self._split(self.v_proj_img(x))

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.kv_heads, -1)).transpose(1, 2)
