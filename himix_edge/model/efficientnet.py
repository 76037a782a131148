"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; Lite): ReLU6, no squeeze-and-excitation, fixed stem and head.

Batch normalisation is folded into the convolutions, so the tower is convolutions with biases and nothing else.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import CNNConfig
from himix_edge.model.meta import register_pixel_norm
from himix_edge.model.vit import pool_grid

# repeats, kernel, stride of the first, expansion, output channels of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
LONGEST_WAVE, POSITION_SCALE = 100.0, 2.0  # see grid_positions


class SameConvolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: ceil(size / stride) cells come out, odd padding is at the end."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        below = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        (top, left) = (padding // 2 for padding in below)
        padded = F.pad(x, (left, below[1] - left, top, below[0] - top)) if any(below) else x
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; with a skip where the shape stays."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.expand = SameConvolution(channels, wide, 1) if expansion > 1 else None
        self.depthwise = SameConvolution(wide, wide, kernel, stride, groups=wide)
        self.project = SameConvolution(wide, out, 1)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.skip else y


def grid_positions(side: int, channels: int) -> Tensor:
    """Sines and cosines of a cell's row and column, in as many wavelengths as fit: (side * side, channels), mean zero.

    Attention does not know where a key comes from unless the key says so; a convolution's output hardly does (as in
    DETR: Carion et al., arXiv 2005.12872, section 3.2). The waves are short, as the grids are small.
    """
    waves = LONGEST_WAVE ** (-torch.arange(channels // 4) / (channels // 4))
    angles = torch.cartesian_prod(torch.arange(side), torch.arange(side)).T[:, :, None] * waves
    positions = torch.cat([wave(axis) for axis in angles for wave in (torch.sin, torch.cos)], -1)
    return positions - positions.mean(0)


class EfficientNetTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the head convolution's map, flattened, with every cell's position added.

    (B, 49, 1280) at 224 pixels.
    """

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, config: CNNConfig):
        super().__init__()
        self.config = config
        self.stem = SameConvolution(3, STEM, 3, stride=2)
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for i in range(repeats):
                blocks.append(InvertedBottleneck(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConvolution(channels, HEAD, 1)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Mean and deviation in pixel values, and the positions, from the configuration."""
        register_pixel_norm(self, self.config.image_mean, self.config.image_std)
        with torch.device("cpu"):
            positions = POSITION_SCALE * grid_positions(self.config.grid // self.config.pooling, HEAD)
        self.register_buffer("positions", positions.to(torch.get_default_device()), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = ((pixels.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        features = F.relu6(self.head(x)).flatten(2).transpose(1, 2)
        return pool_grid(features, self.config.pooling) + self.positions
