"""Quantised weights in the blocks that ONNX Runtime's MatMulNBits takes, and back."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from himix_edge.export.quantisation import QuantizedLinear, QuantizedTensor

JOINT = "+"  # between the names of weights that are stored as one


def join(linears: list[Any]) -> QuantizedLinear | None:
    """Linears with as many rows each, one below the other under all their names; None if they are not of one kind."""
    if not all(isinstance(linear, QuantizedLinear) for linear in linears):
        return None
    if len({(linear.bits, linear.values.shape, linear.scale.shape, linear.bias is None) for linear in linears}) > 1:
        return None
    tensor = QuantizedTensor(
        torch.cat([linear.values for linear in linears]), torch.cat([linear.scale for linear in linears]),
        linears[0].bits,
    )  # fmt: skip
    joined = QuantizedLinear(tensor, None if linears[0].bias is None else torch.cat([each.bias for each in linears]))
    joined.name = JOINT.join(linear.name for linear in linears)
    return joined


def parted(name: str, tensor: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    """What `join` joined, by name."""
    names = name.split(JOINT)
    parts = zip(tensor.values.chunk(len(names)), tensor.scale.chunk(len(names)), strict=True)
    for each, (values, scale) in zip(names, parts, strict=True):
        yield each, QuantizedTensor(values, scale, tensor.bits)


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


def unpack_blocks(packed: Any, scales: Any, columns: int, bits: int) -> QuantizedTensor:
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
