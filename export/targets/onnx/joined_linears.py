"""Linears that share an input stored as one, and taken apart again when they are read."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from himix_edge.export.quantization.tensors import QuantizedTensor
from himix_edge.export.targets.onnx.int8_linear import Int8Linear
from himix_edge.export.targets.onnx.matmul_nbits import MatMulNBits

JOINT = "+"  # between the names of weights that are stored as one, each with its number of rows


def join(linears: Sequence[nn.Module]) -> MatMulNBits | Int8Linear | None:
    """Linears that share an input as one, with their rows below each other; None if there are none, or not of one kind.

    The input is rounded to int8 once for all of them, and small ones don't wait for each other's threads.
    """
    matmuls = [linear for linear in linears if isinstance(linear, MatMulNBits | Int8Linear)]
    kinds = {(type(m), m.quantized.bits, m.quantized.scale.shape[1], m.bias is None) for m in matmuls}
    if len(matmuls) < len(linears) or len(kinds) != 1:
        return None
    if len(matmuls) == 1:
        return matmuls[0]
    weights, biases = [m.quantized for m in matmuls], [m.bias for m in matmuls if m.bias is not None]
    values, scale = torch.cat([w.values for w in weights]), torch.cat([w.scale for w in weights])
    name = JOINT.join(f"{m.name}:{len(m.quantized.values)}" for m in matmuls)
    whole = QuantizedTensor(values, scale, weights[0].bits)
    return matmuls[0].like(name, whole, torch.cat(biases) if biases else None)


def split_joined(name: str, tensor: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    """What `join` joined, by name."""
    if JOINT not in name:
        yield name, tensor
        return
    names, rows = zip(*(part.rsplit(":", 1) for part in name.split(JOINT)), strict=True)
    sizes = [int(count) for count in rows]
    parts = zip(tensor.values.split(sizes), tensor.scale.split(sizes), strict=True)
    for each, (values, scale) in zip(names, parts, strict=True):
        yield each, QuantizedTensor(values, scale, tensor.bits)
