"""Quantized weights in a .tflite file: int4 in blocks with a float16 scale each, int8 with a float32 scale a row.

XNNPACK reads a block's scale as bfloat16 and the others as float32: both hold ours exactly.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himix_edge.bundle import Bundle
from himix_edge.export.quantization.tensors import QuantizedTensor
from himix_edge.export.targets.litert.graph import Graph, Value
from himix_edge.export.targets.litert.model_file import Bytes, Constant, StoredModel, as_bytes, write_model
from himix_edge.export.targets.onnx.joined_linears import split_joined

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import TensorT


def store_weight(graph: Graph, weight: QuantizedTensor, name: str) -> Value:
    """A weight as a constant of the graph; all graphs of a file share its bytes."""
    rows, columns = weight.values.shape
    if weight.bits == 8:
        buffer = graph.file.append(name, Constant(rows * columns, lambda: as_bytes(weight.values)))
        scale, zero = weight.scale[:, 0].numpy(), np.zeros(rows, np.int64)
        return graph.stored(name, (rows, columns), "INT8", buffer, scale=scale, zeroPoint=zero)
    buffer = graph.file.append(name, Constant(rows * columns // 2, lambda: pack_nibbles(weight.values)))
    halves = Constant(2 * weight.scale.numel(), lambda: as_bytes(weight.scale.half()))
    scales = graph.stored(
        f"{name}:scale", tuple(weight.scale.shape), "FLOAT16", graph.file.append((name, "scale"), halves)
    )
    details = graph.schema.BlockwiseQuantizationT()
    details.zeroPoints, details.blockSize = -1, weight.group_size
    kind = graph.schema.QuantizationDetails.BlockwiseQuantization
    return graph.stored(name, (rows, columns), "INT4", buffer, scales=scales, details=details, detailsType=kind)


def pack_nibbles(values: Tensor) -> Bytes:
    """-8..7 (rows, columns), two in a byte, the even column in the low half."""
    halves: Bytes = values.numpy().view(np.uint8).reshape(-1) & np.uint8(15)
    packed: Bytes = halves[0::2] | halves[1::2] << np.uint8(4)
    return packed


def unpack_nibbles(packed: Bytes, rows: int, columns: int) -> Tensor:
    """The inverse of `pack_nibbles`: int8 (rows, columns)."""
    halves = np.stack([packed << 4, packed & 0xF0], axis=-1).view(np.int8) >> 4  # the shift keeps the sign
    return torch.from_numpy(halves.reshape(rows, columns))


def read_back(bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
    """Parameter names with integers and scales of every quantized weight in a bundle's files."""
    for role in bundle.manifest.roles:
        for weights in _weights(StoredModel(bundle.role_path(role))).values():
            name, read = weights[0]
            yield from split_joined(_text(name.name), read())


def write_float_twin(source: Path, path: Path) -> None:
    """The same file with each quantized weight multiplied out, so that nothing is rounded to int8."""
    stored = StoredModel(source)
    appended = stored.appended()
    for buffer, weights in _weights(stored).items():
        for tensor, read in weights:
            appended[buffer] = Constant(4 * math.prod(tensor.shape), partial(_multiplied_out, read))
            tensor.type, tensor.quantization = stored.schema.TensorType.FLOAT32, None
    write_model(stored.schema, stored.model, appended, path)


def _weights(stored: StoredModel) -> "dict[int, list[tuple[TensorT, Callable[[], QuantizedTensor]]]]":
    """Quantized weights by the number of their buffer, in every graph that has them, and how to read them."""
    types = stored.schema.TensorType
    found: dict[int, list[tuple[TensorT, Callable[[], QuantizedTensor]]]] = defaultdict(list)
    for graph in stored.model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type in (types.INT4, types.INT8) and tensor.quantization is not None:
                rows, columns = (int(size) for size in tensor.shape)
                details = tensor.quantization.details
                read: Callable[[], QuantizedTensor]
                if tensor.type == types.INT4:
                    scales = graph.tensors[details.scales].buffer
                    read = partial(_read_blocks, stored, tensor.buffer, scales, rows, columns)
                else:
                    read = partial(_read_rows, stored, tensor.buffer, tensor.quantization.scale, rows, columns)
                found[tensor.buffer].append((tensor, read))
    return found


def _read_blocks(stored: StoredModel, buffer: int, scales: int, rows: int, columns: int) -> QuantizedTensor:
    halves = stored.constant(scales).view(np.float16).astype(np.float32)
    values = unpack_nibbles(stored.constant(buffer), rows, columns)
    return QuantizedTensor(values, torch.from_numpy(halves.reshape(rows, -1)), 4)


def _read_rows(
    stored: StoredModel, buffer: int, scale: NDArray[np.float32], rows: int, columns: int
) -> QuantizedTensor:
    values = stored.constant(buffer).view(np.int8).reshape(rows, columns)
    return QuantizedTensor(torch.from_numpy(values.copy()), torch.from_numpy(np.array(scale, np.float32))[:, None], 8)


def _multiplied_out(read: Callable[[], QuantizedTensor]) -> Bytes:
    return as_bytes(read().dequantize())


def _text(name: bytes | str | None) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""
