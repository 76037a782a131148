"""ONNX Runtime's MatMulNBits: quantized weights in its blocks, and back."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from himix_edge.export.quantization.tensors import QuantizedTensor

PACKED, SCALE = ".packed", ".scale"


class MatMulNBits(nn.Module):
    """com.microsoft::MatMulNBits over the quantized integers; accuracy_level 4 is int8 activations, 0 float."""

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: QuantizedTensor, bias: Tensor | None, accuracy_level: int):
        super().__init__()
        self.name, self.quantized, self.accuracy_level = name, weight, accuracy_level
        packed, scale, self.block = pack_blocks(weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def like(self, name: str, weight: QuantizedTensor, bias: Tensor | None) -> "MatMulNBits":
        """Other weights of the same kind."""
        return MatMulNBits(name, weight, bias, self.accuracy_level)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.quantized.values.shape
        attributes = {
            "K": columns, "N": rows, "bits": self.quantized.bits, "block_size": self.block,
            "accuracy_level": self.accuracy_level,
        }  # fmt: skip
        inputs = [x, self.packed, self.scale] + ([None, None, self.bias] if self.bias is not None else [])
        return contrib("MatMulNBits", inputs, attributes, x.dtype, (*x.shape[:-1], rows))


def pack_blocks(weight: QuantizedTensor) -> tuple[Tensor, Tensor, int]:
    """MatMulNBits' layout: uint8 (rows, blocks, block*bits/8), float32 scales (rows, blocks), and the block size.

    Integers are stored with an offset of 8 (4 bit, even column in the low nibble) or 128 (8 bit). A scale that covers
    a whole row is repeated for each block.
    """
    rows, columns = weight.values.shape
    block = weight.group_size if weight.group_size < columns else row_block(columns)
    offset = (weight.values.to(torch.int16) + (8 if weight.bits == 4 else 128)).to(torch.uint8)
    blocks = -(-columns // block)
    padded = torch.full((rows, blocks * block), 8 if weight.bits == 4 else 128, dtype=torch.uint8)
    padded[:, :columns] = offset
    packed = padded.reshape(rows, blocks, block)
    if weight.bits == 4:
        packed = packed[..., 0::2] | (packed[..., 1::2] << 4)
    scale = weight.scale.repeat_interleave(blocks // weight.scale.shape[1], dim=1)
    return packed.contiguous(), scale.contiguous(), block


def unpack_blocks(packed: NDArray[np.uint8], scales: NDArray[np.floating], columns: int, bits: int) -> QuantizedTensor:
    """The inverse of `pack_blocks`; a scale that was repeated for a whole row stays repeated."""
    integers = torch.from_numpy(packed.copy())
    if bits == 4:
        integers = torch.stack([integers & 15, integers >> 4], dim=-1).flatten(2)
    values = (integers.to(torch.int16) - (8 if bits == 4 else 128)).to(torch.int8)
    return QuantizedTensor(values.flatten(1)[:, :columns], torch.from_numpy(scales.astype("float32")), bits)


def row_block(columns: int) -> int:
    """MatMulNBits' block size for a row with one scale: the largest up to 128 that divides `columns`, 16 (with padding)
    if none does.

    Larger blocks would store fewer repeated scales, but ONNX Runtime 1.32 multiplies many rows more slowly beyond 128.
    """
    return next((block for block in (128, 64, 32, 16) if columns % block == 0), 16)


def contrib(
    op: str, inputs: Sequence[Tensor | None], attributes: Mapping[str, int], dtype: torch.dtype, shape: Sequence[int]
) -> Tensor:
    """An operator of com.microsoft with one output."""
    return symbolic(f"com.microsoft::{op}", inputs, {**attributes}, dtype=dtype, shape=shape, version=1)
