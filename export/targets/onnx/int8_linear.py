"""int8 linears of graphs that always see many rows: ONNX Runtime's integer matmul, 1.7 times as fast as MatMulNBits.

The graphs call it as a function of their own, whose body ONNX Runtime inlines. So one file serves int8 activations,
and, with the other body, float ones. Each row of activations has a symmetric int8 scale.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from himix_edge.export.quantization.tensors import QuantizedTensor

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN, NAME = "himix_edge", "Int8Linear"
OFFSET = 128  # activations are stored as uint8: ONNX Runtime has no fast kernel for int8 by int8
SMALLEST = 1e-20  # the scale of a row of zeros


class Int8Linear(nn.Module):
    """himix_edge::Int8Linear over the quantized integers; `packed` int8 (columns, rows), `scale` float32 (rows,)."""

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: QuantizedTensor, bias: Tensor | None):
        super().__init__()
        self.name, self.quantized = name, weight
        self.register_buffer("packed", weight.values.T.contiguous())
        self.register_buffer("scale", weight.scale.flatten())
        self.register_buffer("bias", bias)

    def like(self, name: str, weight: QuantizedTensor, bias: Tensor | None) -> "Int8Linear":
        """Other weights of the same kind."""
        return Int8Linear(name, weight, bias)

    @staticmethod
    def fits(weight: QuantizedTensor) -> bool:
        """Whether these are int8 weights with one scale for each row."""
        return weight.bits == 8 and weight.scale.shape[1] == 1

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], len(self.scale))
        inputs = [x, self.packed, self.scale]
        out = symbolic(f"{DOMAIN}::{NAME}", inputs, {}, dtype=x.dtype, shape=shape, version=1)
        return out if self.bias is None else out + self.bias


def unpack(packed: NDArray[np.int8], scale: NDArray[np.float32]) -> QuantizedTensor:
    """The weights of an `Int8Linear` from its arrays."""
    return QuantizedTensor(torch.from_numpy(packed.T.copy()), torch.from_numpy(scale.copy())[:, None], 8)


def function(opset: int, int8_activations: bool) -> "ir.Function":
    """The function's body as an onnx_ir.Function: (x, packed, scale) -> x @ (packed * scale)."""
    import onnx_ir as ir

    tape, x, packed, scale = ir.tape.Tape(), ir.Input("x"), ir.Input("packed"), ir.Input("scale")

    def constant(value: Tensor) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.tensor(value)})

    if int8_activations:
        largest = tape.op("ReduceMax", [tape.op("Abs", [x]), constant(torch.tensor([-1]))], {"keepdims": 1})
        smallest, offset = constant(torch.tensor(SMALLEST)), constant(torch.tensor(OFFSET, dtype=torch.uint8))
        row_scale = tape.op("Max", [tape.op("Mul", [largest, constant(torch.tensor(1 / 127))]), smallest])
        rounded = tape.op("Round", [tape.op("Div", [x, row_scale])])
        shifted = tape.op("Add", [rounded, constant(torch.tensor(float(OFFSET)))])
        integers = tape.op("Cast", [shifted], {"to": ir.DataType.UINT8})
        # the zero is no default: ONNX Runtime's rewriting for CPUs whose sums overflow reads past the inputs without it
        sums = tape.op("MatMulInteger", [integers, packed, offset, constant(torch.tensor(0, dtype=torch.int8))])
        product = tape.op("Cast", [sums], {"to": ir.DataType.FLOAT})
        out = tape.op("Mul", [tape.op("Mul", [product, row_scale]), scale])
    else:
        out = tape.op("MatMul", [x, tape.op("DequantizeLinear", [packed, scale], {"axis": 1})])
    graph = ir.Graph([x, packed, scale], [out], nodes=tape.nodes, opset_imports={"": opset})
    return ir.Function(DOMAIN, NAME, graph=graph, attributes=[])
