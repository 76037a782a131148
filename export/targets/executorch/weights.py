"""Quantized weights as ExecuTorch's XNNPACK takes them, and read back out of a program.

XNNPACK quantizes what it multiplies with one scale for each token, so one loud channel costs all others their
precision. Two linears suffer by it, `down_proj` and the head: they are cut along their input into pieces, each with its
own scale, whose products are summed. The rows that make a piece are linears of their own, as XNNPACK cannot split what
has a dynamic size. Neither changes an integer or a scale.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from himix_edge.bundle import Bundle
from himix_edge.checkpoints.assemble import meta_model
from himix_edge.config import ModelConfig
from himix_edge.export.graphs import quiet
from himix_edge.export.quantization.tensors import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedTensor,
    digest,
    names_by_digest,
)
from himix_edge.parts import part_of

if TYPE_CHECKING:
    from executorch.exir._serialize._program import PTEFile
    from executorch.exir.schema import Program

FILE = "model.pte"
INFINITE = re.compile(r"(?m)(?<=: )(-?)inf(?=,?$)")  # a limit of ReLU, as flatc writes it; JSON has no such number
BLOCK = 32  # XNNPACK's 4-bit groups are multiples of it
# most pieces and least columns of one; a layer's pieces cost export time, the head's do not
PIECED = {"down_proj": (4, 128), "lm_head": (8, 64), "embed_tokens": (8, 64)}


def pieces_of(quantized: QuantizedTensor, name: str, config: ModelConfig) -> int:
    """Into how many equal pieces of whole groups a linear is cut along its input.

    Vanilla's image passes through the same layers in another method; whole, the two share their weights. An injection's
    are its own, and known by their digest.
    """
    most, least = PIECED.get(name.removesuffix(".weight").rpartition(".")[2], (1, 1))
    if config.architecture == "vanilla" or part_of(name) != "decoder":
        return 1
    columns, step = quantized.values.shape[1], max(BLOCK, quantized.group_size if quantized.bits == 4 else 0)
    fitting = [n for n in range(2, most + 1) if columns % (n * step) == 0 and columns // n >= least]
    return max(fitting, default=1)


class PackedEmbedding(nn.Module):
    """A token embedding on 4-bit integers, two in a byte, or 8-bit ones.

    The table is cut as the tied head's is, and held in XNNPACK's bytes, so that a file can store both once.
    """

    def __init__(self, quantized: QuantizedTensor, count: int):
        super().__init__()
        self.bits, self.count = quantized.bits, count
        for i, part in enumerate(cut_columns(quantized, count)):
            four = part.bits == 4
            self.register_buffer(f"values_{i}", pack_nibbles(part.values) if four else part.values)
            self.register_buffer(f"scale_{i}", part.scale.bfloat16() if four else part.scale)

    def forward(self, ids: Tensor) -> Tensor:
        rows, scale = (
            torch.cat([getattr(self, f"{name}_{i}")[ids[0]] for i in range(self.count)], dim=1).float()
            for name in ("values", "scale")
        )
        if self.bits == 4:  # in float: the runtime has no kernel that shifts bits
            high = torch.floor(rows / 16)
            rows = torch.stack([rows - 16 * high, high], dim=-1).flatten(1) - 8
        return (rows.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)[None]


def pack_nibbles(values: Tensor) -> Tensor:
    """-8..7 (rows, columns) -> uint8 (rows, columns / 2) with 8 added, the even column in the low half."""
    offset = (values + 8).to(torch.uint8)
    return offset[:, 0::2] | offset[:, 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return (torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int16) - 8).to(torch.int8)


def cut_columns(quantized: QuantizedTensor, count: int) -> list[QuantizedTensor]:
    """A weight as `count` equal parts of its columns, views of it."""
    values, scale = quantized.values, quantized.scale
    scales = scale.chunk(count, dim=1) if scale.shape[1] > 1 else [scale] * count
    pairs = zip(values.chunk(count, dim=1), scales, strict=True)
    return [QuantizedTensor(part, of, quantized.bits) for part, of in pairs]


class Pieces(nn.Module):
    """One linear, cut along its input."""

    def __init__(self, quantized: QuantizedTensor, bias: Tensor | None, count: int):
        super().__init__()
        self.width = quantized.values.shape[1] // count
        self.parts = nn.ModuleList(
            _linear(part, None if i else bias) for i, part in enumerate(cut_columns(quantized, count))
        )

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """The whole input (..., columns), or its pieces."""
        if isinstance(x, Tensor):
            x = [x[..., i * self.width : (i + 1) * self.width] for i in range(len(self.parts))]
        return sum_of([part(piece) for part, piece in zip(self.parts, x, strict=True)])


class SideBySide(nn.Module):
    """Linears that share an input, which is quantized once."""

    def __init__(self, linears: list[nn.Module]):
        super().__init__()
        self.linears = nn.ModuleList(
            _linear(linear.quantized, linear.bias, round_input=False) if isinstance(linear, QuantizedLinear) else linear
            for linear in linears
        )
        self.quantized = [isinstance(linear, QuantizedLinear) for linear in linears]

    def forward(self, x: Tensor) -> list[Tensor]:
        rounded = int8_per_token(x) if any(self.quantized) else x
        return [linear(rounded if q else x) for q, linear in zip(self.quantized, self.linears, strict=True)]


def sum_of(parts: list[Tensor]) -> Tensor:
    """The parts' sum, from the first to the last."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def cut_rows(linear: nn.Linear | QuantizedLinear, count: int) -> list[nn.Module]:
    """A linear without bias as `count` of them, which make a part of its output each."""
    if count == 1:
        return [linear]
    if not isinstance(linear, QuantizedLinear):
        return [_float_linear(nn.Parameter(rows, requires_grad=False)) for rows in linear.weight.chunk(count)]
    parts = zip(linear.values.chunk(count), linear.scale.chunk(count), strict=True)
    return [QuantizedLinear(QuantizedTensor(values, scale, linear.bits), None) for values, scale in parts]


def int8_linear(linear: QuantizedLinear, config: ModelConfig) -> nn.Module:
    """A linear by itself, on int8 activations."""
    return _cut(linear.quantized, linear.bias, linear.name, config)


def tied_head(table: nn.Embedding | QuantizedEmbedding, config: ModelConfig) -> nn.Module:
    """The head that multiplies with the token embedding."""
    if isinstance(table, QuantizedEmbedding):
        return _cut(table.quantized, None, table.name, config)
    return _float_linear(table.weight)


def _cut(quantized: QuantizedTensor, bias: Tensor | None, name: str, config: ModelConfig) -> nn.Module:
    count = pieces_of(quantized, name, config)
    return Pieces(quantized, bias, count) if count > 1 else _linear(quantized, bias)


def _float_linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False, device="meta")
    made.weight = weight
    return made


def _linear(quantized: QuantizedTensor, bias: Tensor | None, round_input: bool = True) -> nn.Linear:
    """A weight that XNNPACK takes as it is; `round_input`: it quantizes its input itself."""
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as intx

    kind, block = getattr(torch, f"int{quantized.bits}"), (1, quantized.group_size)
    activations = intx.IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN if round_input else None
    zero = torch.zeros_like(quantized.scale, dtype=torch.int8)
    stored = IntxUnpackedToInt8Tensor(quantized.values, quantized.scale, zero, kind, block, torch.float32, activations)
    made = _float_linear(nn.Parameter(stored, requires_grad=False))
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return made


def int8_per_token(x: Tensor) -> Tensor:
    """x (..., K) as XNNPACK quantizes it: asymmetric int8 with one scale for each token."""
    from torchao.quantization import quant_primitives as affine

    block, int8 = (*[1] * (x.dim() - 1), x.shape[-1]), torch.int8
    scale, zero = affine.choose_qparams_affine(
        x, affine.MappingType.ASYMMETRIC, block, int8, -128, 127, zero_point_dtype=int8
    )
    values = affine.quantize_affine(x, block, scale, zero, int8, -128, 127)
    rounded: Tensor = affine.dequantize_affine(values, block, scale, zero, int8, -128, 127, output_dtype=x.dtype)
    return rounded


def read_back(bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
    """Parameter names with integers and scales of every quantized weight in a bundle's program.

    A weight stored whole is known by its digest, and the embedding by its kind. The decoder's others come in the order
    in which they are used: parts of a weight's rows or columns, until they make up its shape. What is neither is
    "unknown".
    """
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

    names = names_by_digest(bundle.manifest.weights)
    file = deserialize_pte_binary(bundle.role_path("decoder").read_bytes())
    embedding = _read_embedding(file.program)
    if embedding is not None:
        yield names.get(digest(embedding), "unknown embedding"), embedding
    yield from put_together(_read_matrices(file), names, _shapes(bundle.config))


def put_together(
    stored: Iterable[QuantizedTensor], names: Mapping[str, str], expected: list[tuple[str, tuple[int, int]]]
) -> Iterator[tuple[str, QuantizedTensor]]:
    """Weights from their parts, see `read_back`; `names` by digest, `expected` in the order of use."""
    parts: list[QuantizedTensor] = []
    for i, tensor in enumerate(stored):
        name = names.get(digest(tensor))
        if name is not None and not parts:
            expected = [entry for entry in expected if entry[0] != name]
            yield name, tensor
            continue
        dim = _joined_along([*parts, tensor], expected[0][1]) if expected else None
        if dim is None:
            yield f"unknown {i}", tensor
            continue
        parts.append(tensor)
        name, (rows, columns) = expected[0]
        if sum(part.values.numel() for part in parts) < rows * columns:
            continue
        values, scale = (torch.cat(found, dim) for found in ([p.values for p in parts], [p.scale for p in parts]))
        whole = QuantizedTensor(values, scale, tensor.bits)
        parts, expected = [], expected[1:]
        yield names.get(digest(whole), f"unknown {i}: in the place of {name}"), whole


def _joined_along(parts: list[QuantizedTensor], shape: tuple[int, int]) -> int | None:
    """Along which dimension the parts may be joined to a weight of `shape`, if they fit it."""
    first = parts[0]
    for dim, other in ((0, 1), (1, 0)):
        if all(
            part.values.shape[other] == shape[other]
            and part.scale.shape[other] == first.scale.shape[other]
            and part.bits == first.bits
            for part in parts
        ):
            return dim
    return None


def _shapes(config: ModelConfig) -> list[tuple[str, tuple[int, int]]]:
    """Names and shapes of the decoder's matrices, in the order in which they are used."""
    model = meta_model(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() == 2 and "_img." not in name}
    head = "model.embed_tokens.weight" if config.decoder.tie_word_embeddings else "lm_head.weight"
    names = [name for name in shapes if name.startswith("model.layers.")]
    return [(name, shapes[name]) for name in [*names, head]]  # type: ignore[misc]


def _read_embedding(program: "Program") -> QuantizedTensor | None:
    """What a PackedEmbedding holds: integers of every part, then scales of every part, constants of the decoder."""
    from executorch.exir.scalar_type import ScalarType
    from executorch.exir.schema import Tensor as Constant

    types = {
        ScalarType.BYTE: torch.uint8, ScalarType.CHAR: torch.int8,
        ScalarType.FLOAT: torch.float32, ScalarType.BFLOAT16: torch.bfloat16,
    }  # fmt: skip
    decoder = next(plan for plan in program.execution_plan if plan.name == "decoder")
    stored = [v.val for v in decoder.values if isinstance(v.val, Constant) and v.val.data_buffer_idx]
    integers = [i for i, c in enumerate(stored) if c.scalar_type in (ScalarType.BYTE, ScalarType.CHAR)]
    if not integers:
        return None

    def read(constant: Constant) -> Tensor:
        raw = bytearray(program.constant_buffer[constant.data_buffer_idx].storage)
        rows, columns = constant.sizes
        return torch.frombuffer(raw, dtype=types[constant.scalar_type])[: rows * columns].reshape(rows, columns)

    first, count = integers[0], len(integers)
    values = torch.cat([read(constant) for constant in stored[first : first + count]], dim=1)
    scale = torch.cat([read(constant).float() for constant in stored[first + count : first + 2 * count]], dim=1)
    four = values.dtype == torch.uint8
    return QuantizedTensor(unpack_nibbles(values) if four else values, scale, 4 if four else 8)


def _read_matrices(file: "PTEFile") -> Iterator[QuantizedTensor]:
    """Every quantized weight that XNNPACK gets, from the program's delegates and the buffers they name."""
    data = {key: file.named_data.buffers[entry.buffer_index] for key, entry in file.named_data.pte_data.items()}
    for delegate in file.program.backend_delegate_data:
        graph = _xnnpack_graph(bytes(delegate.data))
        keys = enumerate(constant["named_key"] for constant in graph["constant_data"])
        buffers = {i: data[key] for i, key in keys if key in data}
        for value in graph["xvalues"]:
            union = value["xvalue_union"]
            tensor = union.get("tensor_value")
            if not tensor or not tensor.get("constant_buffer_idx"):
                continue
            if union.get("quant_params_type", "").startswith("PerChannel"):
                yield _unpack(tensor, union["quant_params"], buffers)


class _Stored(TypedDict):
    """XNNPACK's tensor_value, as far as it is read; so are the others."""

    constant_buffer_idx: int
    dims: tuple[int, int]
    datatype: str


class _Scales(TypedDict):
    scale_buffer_idx: int
    num_scales: int


class _Union(TypedDict, total=False):
    tensor_value: _Stored
    quant_params: _Scales
    quant_params_type: str


class _Value(TypedDict):
    xvalue_union: _Union


class _Constant(TypedDict):
    named_key: str


class _Graph(TypedDict):
    constant_data: list[_Constant]
    xvalues: list[_Value]


def _xnnpack_graph(delegate: bytes) -> _Graph:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(delegate[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as scratch:
        schema, graph = Path(scratch) / "schema.fbs", Path(scratch) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        graph.write_bytes(delegate[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(scratch, str(schema), str(graph), ["--raw-binary"])
        found: _Graph = json.loads(INFINITE.sub(r"\1Infinity", graph.with_suffix(".json").read_text()))
        return found


def _unpack(tensor: _Stored, parameters: _Scales, buffers: dict[int, bytes]) -> QuantizedTensor:
    rows, columns = tensor["dims"]
    raw = torch.frombuffer(bytearray(buffers[tensor["constant_buffer_idx"]]), dtype=torch.uint8)
    scales = bytearray(buffers[parameters["scale_buffer_idx"]])
    if tensor["datatype"] == "xnn_datatype_qbint4":
        values = unpack_nibbles(raw[: rows * columns // 2].reshape(rows, columns // 2))
        scale = torch.frombuffer(scales, dtype=torch.bfloat16)[: parameters["num_scales"]].float()
        return QuantizedTensor(values, scale.reshape(rows, -1), 4)
    values = raw[: rows * columns].view(torch.int8).reshape(rows, columns)
    scale = torch.frombuffer(scales, dtype=torch.float32)[: parameters["num_scales"]]
    return QuantizedTensor(values, scale.reshape(rows, 1), 8)
