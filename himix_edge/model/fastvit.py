"""FastViT (Vasu et al., arXiv 2303.14189) as FastVLM's tower FastViTHD (arXiv 2412.13303), in its inference form.

Training has several branches of convolutions side by side, norms and skips between them; all that is linear is one
convolution here, and what scales a layer's output is part of that layer. Convolutions of one pixel are linear layers
over the channels, so that they are quantized as such.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import FastViTConfig
from himix_edge.model.meta import register_pixel_norm

MIXING, POSITIONS = 3, 7  # sides of the depthwise kernels: of RepMixer; of positions, downsampling and feed-forward


def depthwise(channels: int, kernel: int, stride: int = 1, out: int | None = None) -> nn.Conv2d:
    """A filter for each channel, or several, that keeps the cells where `stride` is 1."""
    return nn.Conv2d(channels, out or channels, kernel, stride, kernel // 2, groups=channels)


def over_channels(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `layer` makes of (B, cells, C), of a map (B, C, H, W)."""
    return layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


class ConvolutionFeedForward(nn.Module):
    """A depthwise convolution in front of a transformer's feed-forward; the layer's scale is in `fc2`."""

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        self.spread = depthwise(channels, POSITIONS)
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return over_channels(lambda cells: self.fc2(F.gelu(self.fc1(cells))), self.spread(x))


class MixerBlock(nn.Module):
    """RepMixer: a depthwise convolution mixes the cells, its skip inside."""

    def __init__(self, channels: int, config: FastViTConfig):
        super().__init__()
        self.mixer = depthwise(channels, MIXING)
        self.feed_forward = ConvolutionFeedForward(channels, config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        return x + self.feed_forward(x)


class CellAttention(nn.Module):
    """Attention between all cells of a map; the layer's scale is in `out_proj`."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Pre-norm attention, then the convolutional feed-forward, which has no norm."""

    def __init__(self, channels: int, config: FastViTConfig):
        super().__init__()
        self.norm = nn.LayerNorm(channels, config.layer_norm_eps)
        self.attention = CellAttention(channels, config.head_dim)
        self.feed_forward = ConvolutionFeedForward(channels, config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + over_channels(lambda cells: self.attention(self.norm(cells)), x)
        return x + self.feed_forward(x)


class Downsampling(nn.Module):
    """Half the cells a side, other channels."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.large = depthwise(channels, POSITIONS, stride=2, out=out)
        self.point = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return over_channels(lambda cells: F.gelu(self.point(cells)), F.gelu(self.large(x)))


class Stage(nn.Module):
    """Blocks of one width, behind a downsampling from the width before; with attention, behind positions too."""

    def __init__(self, before: int | None, index: int, config: FastViTConfig):
        super().__init__()
        width = config.widths[index]
        attends = index >= len(config.widths) - config.attention_stages
        self.down = nn.Identity() if before is None else Downsampling(before, width)
        self.positions = depthwise(width, POSITIONS) if attends else nn.Identity()
        block = AttentionBlock if attends else MixerBlock
        self.blocks = nn.Sequential(*(block(width, config) for _ in range(config.depths[index])))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.positions(self.down(x)))


class Stem(nn.Module):
    """RGB (B, 3, S, S) -> a map of a quarter of the cells a side."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.second = depthwise(width, 3, stride=2)
        self.point = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.first(x))))
        return over_channels(lambda cells: F.gelu(self.point(cells)), x)


class Expansion(nn.Module):
    """The last map with more channels, each weighed by what all cells say (squeeze and excitation)."""

    def __init__(self, width: int, config: FastViTConfig):
        super().__init__()
        wide = config.feature_size
        self.filter = depthwise(width, 3, out=wide)
        self.reduce = nn.Linear(wide, wide // config.squeeze)
        self.expand = nn.Linear(wide // config.squeeze, wide)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.filter(x).flatten(2).transpose(1, 2)
        pooled = cells.sum(1, keepdim=True) / cells.shape[1]  # a `mean` takes the name of the pixels' one in a graph
        gain = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        return F.gelu(cells * gain)


class FastViTTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the cells of the last map, row by row: (B, N, d_v) float."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: FastViTConfig):
        super().__init__()
        self.config = config
        self.stem = Stem(config.widths[0])
        before = [None, *config.widths[:-1]]
        self.stages = nn.Sequential(*(Stage(width, i, config) for i, width in enumerate(before)))
        self.expansion = Expansion(config.widths[-1], config)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Mean and deviation in pixel values, from the configuration."""
        register_pixel_norm(self, self.config.image_mean, self.config.image_std)

    def forward(self, pixels: Tensor) -> Tensor:
        x = ((pixels.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)
        return self.expansion(self.stages(self.stem(x)))
