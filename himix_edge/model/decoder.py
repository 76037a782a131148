"""A Llama-like decoder whose KV cache may start with vision slots (HiMix, arXiv 2501.10318, section 3).

Shapes: B batch, T new tokens, P cached slots, L layers, H query heads, G key/value heads, h head dim.
Parameter names are Hugging Face's, plus the authors' `input_layernorm_img`, `k_proj_img` and `v_proj_img`.

Where the family norms queries and keys per head (Qwen3), the image's keys are not normed: `k_norm` is learned for the
text's, and a key of a fixed length could not make a place of the image quiet for all queries.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import DecoderConfig


@dataclass
class KVCache:
    """Keys and values that the next tokens attend to, one (B, G, P, h) tensor per layer.

    P may differ by layer: without the image, a layer's cache starts empty. `position` is the rotary position of the
    next text token. HiMix's vision slots have no position, or those up to -1, so it starts at 0 behind them; the
    vanilla model's image tokens are ordinary tokens, so it starts at N.
    """

    key: list[Tensor]
    value: list[Tensor]
    position: int = 0

    def select(self, index: Tensor) -> "KVCache":
        """The cache of other batch rows, e.g. one image's rows repeated for each of its questions."""
        return KVCache([k[index] for k in self.key], [v[index] for v in self.value], self.position)


def concat_images(caches: list[KVCache]) -> KVCache:
    """HiMix vision K/V of several images, one behind the other; order does not change the result."""
    keys = [torch.cat(layer, dim=2) for layer in zip(*(c.key for c in caches), strict=True)]
    values = [torch.cat(layer, dim=2) for layer in zip(*(c.value for c in caches), strict=True)]
    return KVCache(keys, values, caches[0].position)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def rope_frequencies(config: DecoderConfig, device: torch.device | None = None) -> Tensor:
    """Rotary inverse frequencies (h/2,), float32; with Llama 3's scaling if the config has it."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    inv_freq = 1.0 / config.rope_theta ** (steps / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return inv_freq
    wavelength = 2 * math.pi / inv_freq
    rotations = scaling.original_max_position_embeddings / wavelength
    blend = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0, 1)
    return (1 - blend) * inv_freq / scaling.factor + blend * inv_freq


def rope_tables(config: DecoderConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, h/2), float32, for integer `positions` (T,)."""
    angles = positions.float()[:, None] * rope_frequencies(config, positions.device)[None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embeddings to (B, heads, T, h): first half against second half, as Hugging Face does."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def mixture_mask(new: int, cached: int, device: torch.device) -> Tensor:
    """Boolean (T, P+T): every query sees every cached slot, and the new tokens causally (bottom-right aligned)."""
    return torch.ones(new, cached + new, dtype=torch.bool, device=device).tril(diagonal=cached)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention: query (B, H, T, h), key and value (B, G, S, h), boolean mask (T, S) -> (B, H, T, h).

    Where a CPU needs gradients it is written out: the backward pass of torch's own takes eight times longer for short
    texts.
    """
    repeat = query.shape[1] // key.shape[1]
    if query.device.type != "cpu" or not (query.requires_grad or key.requires_grad):
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    together = (repeat, query.shape[2])
    queries = query.unflatten(1, (-1, repeat)).flatten(2, 3)  # of one key head: (B, G, H/G * T, h)
    scores = (queries @ key.transpose(-1, -2)).unflatten(2, together) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).flatten(2, 3).to(value.dtype)
    return (weights @ value).unflatten(2, together).flatten(1, 2)


class Attention(nn.Module):
    """Grouped-query attention. With `vision_size` it also owns the image's projections of this layer.

    `q_norm` and `k_norm` are over one head's channels, and learned ones only where the family has them.
    """

    def __init__(self, config: DecoderConfig, vision_size: int | None):
        super().__init__()
        bias, hidden = config.qkv_bias, config.hidden_size
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.q_proj = nn.Linear(hidden, config.q_size, bias=bias)
        self.k_proj = nn.Linear(hidden, config.kv_size, bias=bias)
        self.v_proj = nn.Linear(hidden, config.kv_size, bias=bias)
        self.o_proj = nn.Linear(config.q_size, hidden, bias=False)
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity() for _ in range(2)
        )
        if vision_size is not None:
            self.k_proj_img = nn.Linear(vision_size, config.kv_size, bias=bias)
            self.v_proj_img = nn.Linear(vision_size, config.kv_size, bias=bias)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, d) -> query (B, H, T, h), key and value (B, G, T, h), not rotated yet."""
        query, key = self.split(self.q_proj(x), self.heads), self.split(self.k_proj(x), self.kv_heads)
        return self.q_norm(query), self.k_norm(key), self.split(self.v_proj(x), self.kv_heads)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, d) -> output (B, T, d) and this layer's keys and values (B, G, P+T, h)."""
        query, key, value = self.project(x)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        out = attend(query, key, value, mask)
        return self.o_proj(out.transpose(1, 2).flatten(2)), key, value


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SlotTerms(nn.Module):
    """What a layer adds to the keys and values of each of N slots, whatever the image: (N, G * h) each."""

    def __init__(self, slots: int, size: int):
        super().__init__()
        self.key, self.value = (nn.Parameter(torch.zeros(slots, size)) for _ in range(2))


class DecoderLayer(nn.Module):
    """One pre-norm block; with `vision_size` also `input_layernorm_img`, the norm in front of the injection.

    With `slots`, the image's keys and values get a term of their own in each of so many.
    """

    def __init__(self, config: DecoderConfig, vision_size: int | None, slots: int = 0):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if vision_size is not None:
            self.input_layernorm_img = RMSNorm(vision_size, config.rms_norm_eps)
        self.self_attn = Attention(config, vision_size)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        self.slots_img = SlotTerms(slots, config.kv_size) if slots else None

    def inject(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Vision features (B, N, d_v) -> this layer's vision key and value (B, G, N, h); no position is applied."""
        attn = self.self_attn
        x = self.input_layernorm_img(features)
        key, value = attn.k_proj_img(x), attn.v_proj_img(x)
        if self.slots_img is not None:
            key, value = key + self.slots_img.key, value + self.slots_img.value
        return attn.split(key, attn.kv_heads), attn.split(value, attn.kv_heads)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, key, value = self.self_attn(self.input_layernorm(x), cos, sin, past, mask)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), key, value


class TokenEmbedding(nn.Embedding):
    """Token ids -> embeddings, and where the head is tied also states -> logits."""

    def project(self, states: Tensor) -> Tensor:
        """(..., d) -> (..., V)."""
        return F.linear(states, self.weight)


class DecoderStack(nn.Module):
    """Embedding, layers and final norm: what Hugging Face calls `model`."""

    layers: Any  # an nn.ModuleList of DecoderLayer; torch's own type forgets of what

    def __init__(self, config: DecoderConfig, vision_size: int | None, injected: Collection[int], slots: int = 0):
        """Layers in `injected` own a projection of the image's features, `vision_size` wide, and terms of `slots`."""
        super().__init__()
        self.config = config
        self.embed_tokens: Any = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [
                DecoderLayer(config, vision_size, slots) if i in injected else DecoderLayer(config, None)
                for i in range(config.num_hidden_layers)
            ]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def run(self, x: Tensor, past: KVCache | None) -> tuple[Tensor, KVCache]:
        """Embeddings (B, T, d) behind `past` -> normed states (B, T, d) and the grown cache."""
        past = past or KVCache([], [])
        new = x.shape[1]
        positions = torch.arange(past.position, past.position + new, device=x.device)
        cos, sin = rope_tables(self.config, positions)
        masks: dict[int, Tensor] = {}
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            layer_past = (past.key[i], past.value[i]) if past.key else None
            cached = past.key[i].shape[2] if past.key else 0
            if cached not in masks:
                masks[cached] = mixture_mask(new, cached, x.device)
            x, key, value = layer(x, cos, sin, layer_past, masks[cached])
            keys.append(key)
            values.append(value)
        return self.norm(x), KVCache(keys, values, past.position + new)
