"""A vanilla model's keys and values of an image, and the cache that a text starts from behind them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from himix_edge.model import KVCache, VanillaModel
from himix_edge.model.decoder import rotate
from himix_edge.model.mixer import ImageRope, pass_layers
from himix_edge.model.vit import pool_grid
from himix_edge.model.vlm import VisionRows


def teacher_rows(teacher: VanillaModel, tokens: Tensor, before: Sequence[int] = ()) -> VisionRows:
    """Each layer's keys, not rotated, and values (B, G, N, h) of image tokens (B, N, d) behind words, ids `before`."""
    words = teacher.model.embed_tokens(torch.tensor(before, dtype=torch.int64, device=tokens.device))
    x = torch.cat([words.expand(len(tokens), -1, -1), tokens], 1)
    tables = ImageRope(teacher.config.decoder)(x.shape[1], x.device)
    made = pass_layers(teacher.model.layers, x, tables)[1]
    return [(key[:, :, len(before) :], value[:, :, len(before) :]) for key, value in made]


def pool_rows(rows: VisionRows, side: int) -> VisionRows:
    """Keys and values (B, G, N, h) -> (B, G, N / side^2, h), the means over squares of tokens."""
    return [(_pooled(key, side), _pooled(value, side)) for key, value in rows]


def _pooled(rows: Tensor, side: int) -> Tensor:
    return pool_grid(rows.flatten(0, 1), side).unflatten(0, rows.shape[:2]) if rows.shape[2] else rows


def nothing(row: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The same of no slots."""
    key, value = row
    return key[:, :, :0], value[:, :, :0]


def placed(teacher: VanillaModel, rows: VisionRows, positions: Literal["none", "sequence"]) -> KVCache:
    """What a text starts from, as in a HiMix model: it counts from 0 behind the image."""
    rope = ImageRope(teacher.config.decoder)
    keys = [rotate(key, *rope(key.shape[2], key.device)) if positions == "sequence" else key for key, _ in rows]
    return KVCache(keys, [value for _, value in rows], 0)
