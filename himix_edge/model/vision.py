"""A ViT tower that takes the resized uint8 image: scaling and normalisation are part of the model, not of the app."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import VisionConfig


class VisionAttention(nn.Module):
    """Bidirectional multi-head attention with biases."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        size = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    """Pre-norm transformer block with exact GELU (tanh GELU is not portable: XNNPACK and Core ML replace it)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x))))


class PatchProjection(nn.Module):
    """Normalised image (B, S, S, 3) -> non-overlapping patches in a convolution's order, projected: (B, N, d_v)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch = config.patch_size
        self.projection = nn.Linear(3 * config.patch_size**2, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        grid, p = x.shape[1] // self.patch, self.patch
        patches = x.reshape(-1, grid, p, grid, p, 3).permute(0, 1, 3, 5, 2, 4)
        return self.projection(patches.reshape(-1, grid * grid, 3 * p * p))


class ConvolutionStem(nn.Module):
    """Normalised image (B, S, S, 3) -> strided convolutions, then a projection: (B, N, d_v).

    A small ViT learns shapes from few images far sooner with it (Xiao et al., arXiv 2106.14881).
    """

    def __init__(self, config: VisionConfig):
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


def sincos_positions(config: VisionConfig) -> Tensor:
    """2-D sine-cosine positions (N, d_v), the starting point of the learned ones (Beyer et al., arXiv 2205.01580)."""
    grid, quarter = config.image_size // config.patch_size, config.hidden_size // 4
    frequencies = 10000.0 ** -(torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis.repeat_interleave(grid, dim=0), axis.repeat(grid, 1)
    return F.pad(torch.cat([rows, columns], dim=1), (0, config.hidden_size - 4 * quarter))


class VisionTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the hidden state after `feature_layer`, (B, N, d_v) float."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embed = ConvolutionStem(config) if config.stem_channels else PatchProjection(config)
        self.position_embed = nn.Parameter(sincos_positions(config))
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.num_layers_used)])
        self.register_buffer("mean", torch.tensor(config.image_mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.image_std) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.to(self.mean.dtype) - self.mean) / self.std
        x = self.patch_embed(x) + self.position_embed
        for block in self.blocks:
            x = block(x)
        return x
