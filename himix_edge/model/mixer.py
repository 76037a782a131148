"""A mixing injection: an image's tokens pass through decoder layers of the injector's own, as a vanilla model's do.

With as many layers as the decoder has and the same weights, it gives a vanilla model's keys and values; with none, the
layers project what the connector makes. In between, the layers above project what the mixed tokens are.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.config import DecoderConfig
from himix_edge.model.decoder import DecoderLayer, attend, mixture_mask, rope_tables, rotate


class ImageRope(nn.Module):
    """Cos and sin (N, h/2) of the places of an image's slots: -N..-1, right in front of the text's 0."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config

    def forward(self, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return rope_tables(self.config, torch.arange(-slots, 0, device=device))


def pass_layers(
    layers: Iterable[DecoderLayer], x: Tensor, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Tokens that nothing stands in front of, through some layers of a decoder.

    Args:
        layers: of the decoder.
        x: (B, N, d), what enters the first of them.
        tables: of their places; which follow each other, and where they begin makes no difference.

    Returns:
        What leaves the last, (B, N, d), and each layer's keys, not rotated, and values, (B, G, N, h).
    """
    cos, sin = tables
    mask = mixture_mask(x.shape[1], 0, x.device)
    made = []
    for layer in layers:
        attention = layer.self_attn
        query, key, value = attention.project(layer.input_layernorm(x))
        made.append((key, value))
        attended = attend(rotate(query, cos, sin), rotate(key, cos, sin), value, mask)
        x = x + attention.o_proj(attended.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return x, made


class Mixer(nn.Module):
    """The first `count` layers of a decoder, for image tokens alone: see `pass_layers`."""

    layers: Any  # an nn.ModuleList of DecoderLayer

    def __init__(self, config: DecoderConfig, count: int):
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(config, None) for _ in range(count)])

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        return pass_layers(self.layers, x, tables)
