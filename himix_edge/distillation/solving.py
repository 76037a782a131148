"""An injection that is solved: linear maps to the keys and values that a vanilla model has for its image tokens.

The map of a layer starts where the student's does, at the tower's features or at states behind its mixing layers,
normed by their root mean square; so it is the layer's projection, with a norm whose weights are 1. Keys are fitted
before they are rotated, and as the text's queries meet them: normed per head where the family does that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.config import ModelConfig
from himix_edge.distillation.moments import Constant, Map, Moments, ridge
from himix_edge.distillation.rows import pool_rows, teacher_rows
from himix_edge.errors import InputError
from himix_edge.model import VanillaModel
from himix_edge.model.mixer import ImageRope, pass_layers
from himix_edge.model.vit import pool_grid

STRENGTHS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
ROUND = 10  # of so many images one chooses the penalty, and one tells how much is explained
FEWEST_IMAGES = 2 * ROUND


@dataclass(frozen=True)
class Explained:
    """How much of a layer's keys and values the student's are, on images that no fit has seen: 1 is all of it.

    Attributes:
        layer: of the decoder.
        keys: 1 - squared error / variance, over all channels, slots and images; at most 1.
        values: the same.
    """

    layer: int
    keys: float
    values: float


@dataclass(frozen=True)
class Solution:
    """Weights of the injection's projections, float32 by parameter name, and what they explain."""

    tensors: dict[str, Tensor]
    explained: tuple[Explained, ...]
    images: int


class Sums:
    """What is kept of the images: moments of those to fit, of those that choose, of those that tell."""

    def __init__(self, teacher: VanillaModel, config: ModelConfig, before: Sequence[int] = ()):
        """`config` is the student's; `before` are the ids of what stands in front of an image in the teacher's text."""
        self.before = before
        self.teacher, self.config, self.images = teacher, config, 0
        self.pooling = isqrt(teacher.config.tile_tokens // config.tile_tokens)
        size = 2 * config.decoder.kv_size * len(config.projecting_layers)
        shape = (config.tile_tokens, config.injection_width, size)
        self.fit, self.choose, self.tell = (Moments(*shape) for _ in range(3))

    @torch.inference_mode()
    def add(self, features: Tensor) -> None:
        """The tower's features (B, N, d_v) of some images."""
        x, y = self._inputs_and_targets(features)
        places = torch.arange(self.images, self.images + len(x)) % ROUND
        parts = (self.fit, places < ROUND - 2), (self.choose, places == ROUND - 2), (self.tell, places == ROUND - 1)
        for part, of in parts:
            part.add(x[of], y[of])
        self.images += len(x)

    def _inputs_and_targets(self, features: Tensor) -> tuple[Tensor, Tensor]:
        config, mixing = self.config, self.config.injection.mixing
        tokens = self.teacher.connect(features)
        rows = pool_rows(teacher_rows(self.teacher, tokens, self.before), self.pooling)
        x = pool_grid(features if mixing is None else tokens, self.pooling)
        if mixing:
            tables = ImageRope(config.decoder)(x.shape[1], x.device)
            x, _ = pass_layers(self.teacher.model.layers[:mixing], x, tables)
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=config.decoder.rms_norm_eps)
        made = [part.transpose(1, 2).flatten(2) for layer in config.projecting_layers for part in rows[layer]]
        return normed, torch.cat(made, -1)


def solve(sums: Sums) -> Solution:
    """The projections of the student's layers.

    Raises:
        InputError: too few images, or features or states that are no finite numbers.
    """
    config, size = sums.config, sums.config.decoder.kv_size
    if sums.images < FEWEST_IMAGES:
        raise InputError(f"--images: {sums.images} images; an injection is solved on {FEWEST_IMAGES} or more")
    if not (sums.fit.xx.isfinite().all() and sums.fit.yy.isfinite().all()):
        raise InputError("the model's states hold NaN or infinity: it is damaged")
    injection = config.injection
    constant: Constant = "slot" if injection.slots else "all" if config.decoder.qkv_bias else "none"
    best = torch.full((sums.fit.yy.numel() // size,), float("inf"), dtype=torch.float64)
    chosen = Map(torch.zeros_like(sums.fit.xy), torch.zeros_like(sums.fit.y))
    for candidate in ridge(sums.fit, constant, STRENGTHS):
        errors = sums.choose.errors(candidate).unflatten(0, (-1, size)).sum(1)  # of a layer's keys, or its values
        better = (errors < best).repeat_interleave(size)
        best = torch.minimum(best, errors)
        for kept, new in ((chosen.weight, candidate.weight), (chosen.constant, candidate.constant)):
            kept[:, better] = new[:, better]
    told = sums.tell.errors(chosen), sums.tell.variance()
    errors, variance = (of.unflatten(0, (-1, 2, size)).sum(2) for of in told)
    shares = (1 - errors / variance.clamp_min(torch.finfo(torch.float64).tiny)).tolist()
    exact = [layer for layer in config.injected_layers if layer not in config.projecting_layers]
    explained = [Explained(layer, 1.0, 1.0) for layer in exact]
    explained += [Explained(layer, *share) for layer, share in zip(config.projecting_layers, shares, strict=True)]
    return Solution(_parameters(config, chosen), tuple(explained), sums.images)


def _parameters(config: ModelConfig, solved: Map) -> dict[str, Tensor]:
    """By name, as `DecoderLayer.inject` takes them."""
    tensors: dict[str, Tensor] = {}
    size, injection = config.decoder.kv_size, config.injection
    blocks = iter(zip(solved.weight.float().split(size, 1), solved.constant.float().split(size, 1), strict=True))
    for layer in config.projecting_layers:
        prefix = f"model.layers.{layer}."
        tensors[f"{prefix}input_layernorm_img.weight"] = torch.ones(config.injection_width)
        for kind in ("key", "value"):
            weight, constant = next(blocks)
            linear = f"{prefix}self_attn.{kind[0]}_proj_img"
            tensors[f"{linear}.weight"] = weight.T.contiguous()
            if injection.slots:
                tensors[f"{prefix}slots_img.{kind}"] = constant.contiguous()
            if config.decoder.qkv_bias:
                tensors[f"{linear}.bias"] = torch.zeros(size) if injection.slots else constant[0].contiguous()
    return tensors
