"""A ViT tower that takes the resized uint8 image: scaling and normalisation are part of the model, not of the app.

One implementation for SigLIP, CLIP, DINOv2, ViT and our own small ones; `ViTConfig` says in what they differ.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import ViTConfig
from himix_edge.model.meta import register_pixel_norm


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh approximation. A function: a copied model has the same one, and targets know it by identity."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class VisionAttention(nn.Module):
    """Bidirectional multi-head attention with biases."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        size = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., arXiv 2103.17239)."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class VisionBlock(nn.Module):
    """Pre-norm transformer block. Of the activations only exact GELU is the same in every runtime."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.scale1, self.scale2 = (
            LayerScale(config.hidden_size) if config.layer_scale else nn.Identity() for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.self_attn(self.layer_norm1(x)))
        return x + self.scale2(self.fc2(self.activation(self.fc1(self.layer_norm2(x)))))


class PatchProjection(nn.Module):
    """Normalised image (B, S, S, 3) -> non-overlapping patches in a convolution's order, projected: (B, N, d_v).

    Pixels beyond the last whole patch are left out, as a convolution leaves them out.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.patch, self.grid = config.patch_size, config.grid
        self.projection = nn.Linear(3 * config.patch_size**2, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        grid, p = self.grid, self.patch
        patches = x[:, : grid * p, : grid * p].reshape(-1, grid, p, grid, p, 3).permute(0, 1, 3, 5, 2, 4)
        return self.projection(patches.reshape(-1, grid * grid, 3 * p * p))


class ConvolutionStem(nn.Module):
    """Normalised image (B, S, S, 3) -> strided convolutions, then a projection: (B, N, d_v).

    A small ViT learns shapes from few images far sooner with it (Xiao et al., arXiv 2106.14881).
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        channels = (3, *config.stem_channels)
        convolutions = [nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(channels)]
        self.convolutions = nn.ModuleList(convolutions)
        self.projection = nn.Linear(channels[-1], config.hidden_size)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
        return self.projection(x.flatten(2).transpose(1, 2))


def sincos_positions(config: ViTConfig) -> Tensor:
    """2-D sine-cosine positions (N, d_v), the starting point of the learned ones (Beyer et al., arXiv 2205.01580)."""
    grid, quarter = config.grid, config.hidden_size // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, device="cpu") / quarter)
    angles = torch.arange(grid, device="cpu")[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis.repeat_interleave(grid, dim=0), axis.repeat(grid, 1)
    return F.pad(torch.cat([rows, columns], dim=1), (0, config.hidden_size - 4 * quarter))


def pool_grid(x: Tensor, pooling: int) -> Tensor:
    """Average the tokens (B, grid * grid, d) of each pooling x pooling cell: (B, (grid / pooling) ** 2, d)."""
    if pooling == 1:
        return x
    grid = math.isqrt(x.shape[1])
    rows = x.unflatten(1, (-1, pooling)).mean(2)  # one axis after the other: Core ML takes five and no more
    return rows.unflatten(1, (-1, pooling, grid // pooling)).mean(2).flatten(1, 2)


class ViTTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the hidden states after `feature_layers`, side by side: (B, N, d_v) float."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = ConvolutionStem(config) if config.stem_channels else PatchProjection(config)
        positions = sincos_positions(config)
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(config.hidden_size))
            positions = F.pad(positions, (0, 0, 1, 0))
        self.position_embed = nn.Parameter(positions.to(torch.get_default_device()))
        self.pre_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.num_layers_used)])
        self.post_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.post_norm else nn.Identity()
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Mean and deviation in pixel values, from the configuration."""
        register_pixel_norm(self, self.config.image_mean, self.config.image_std)

    def forward(self, pixels: Tensor) -> Tensor:
        config = self.config
        x = self.patch_embed((pixels.to(self.mean.dtype) - self.mean) / self.std)
        if config.class_token:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        states = [self.pre_norm(x + self.position_embed)]
        for block in self.blocks:
            states.append(block(states[-1]))
        levels = [states[config.num_hidden_layers + 1 + index] for index in config.feature_layers]
        features = self.post_norm(torch.cat(levels, dim=-1) if len(levels) > 1 else levels[0])
        if config.drop_first_token:
            features = features[:, 1:]
        return pool_grid(features, config.pooling)
