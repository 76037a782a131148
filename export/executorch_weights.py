"""Quantised weights as ExecuTorch's XNNPACK takes them, and read back out of a program.

XNNPACK quantises what it multiplies with one scale for each token, so one loud channel costs all others their
precision: SmolLM2-135M lost 1 to 2.4% of perplexity by it. Hence the linears that suffered by it (`PIECED`) are cut
along their input into pieces, each with its own scale, whose products are summed. Linears that share an input are one,
row below row: fewer operations to lower and to run. Neither changes an integer or a scale.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.bundle import Bundle
from himix_edge.checkpoints.assemble import meta_model
from himix_edge.config import ModelConfig
from himix_edge.export.quantisation import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedTensor,
    digest,
)

FILE = "model.pte"
PIECED = ("q_proj", "k_proj", "v_proj", "down_proj", "lm_head", "embed_tokens")
LEAST_COLUMNS, BLOCK = 128, 32  # XNNPACK's 4-bit groups are multiples of 32


def pieces_of(columns: int, group_size: int) -> int:
    """Into how many equal pieces of whole groups a linear with so many input channels is cut: two, or one."""
    halves = columns % (2 * max(group_size, BLOCK)) == 0 and columns // 2 >= LEAST_COLUMNS
    return 2 if halves else 1


class PackedEmbedding(nn.Module):
    """A token embedding on 4-bit integers, two in a byte, or 8-bit ones."""

    values: Tensor
    scale: Tensor

    def __init__(self, quantised: QuantizedTensor):
        super().__init__()
        self.bits = quantised.bits
        values = quantised.values
        if self.bits == 4:
            offset = (values + 8).to(torch.uint8)
            values = offset[:, 0::2] | offset[:, 1::2] << 4
        self.register_buffer("values", values)
        self.register_buffer("scale", quantised.scale)

    def forward(self, ids: Tensor) -> Tensor:
        rows, scale = self.values[ids[0]].float(), self.scale[ids[0]]
        if self.bits == 4:  # in float: the runtime has no kernel that shifts bits
            high = torch.floor(rows / 16)
            rows = torch.stack([rows - 16 * high, high], dim=-1).flatten(1) - 8
        return (rows.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)[None]


class Pieces(nn.Module):
    """One linear, cut along its input."""

    def __init__(self, quantised: QuantizedTensor, bias: Tensor | None, count: int):
        super().__init__()
        values, scale = quantised.values, quantised.scale
        self.width = values.shape[1] // count
        scales = scale.chunk(count, dim=1) if scale.shape[1] > 1 else [scale] * count
        self.parts = nn.ModuleList(
            _linear(QuantizedTensor(part, of, quantised.bits), None if i else bias)  # views: no copy of the weight
            for i, (part, of) in enumerate(zip(values.chunk(count, dim=1), scales, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        total = None
        for part, piece in zip(self.parts, x.split(self.width, dim=-1), strict=True):
            total = part(piece) if total is None else total + part(piece)
        assert total is not None
        return total


class SideBySide(nn.Module):
    """Linears that share an input and cannot be one: their outputs, concatenated."""

    def __init__(self, linears: list[nn.Module]):
        super().__init__()
        self.linears = nn.ModuleList(linears)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


def side_by_side(linears: list[Any], config: ModelConfig) -> nn.Module:
    """Linears that share an input as one module, whose output is theirs one behind the other."""
    first = linears[0]
    alike = all(isinstance(linear, QuantizedLinear) and linear.bits == first.bits for linear in linears)
    if not alike or config.architecture == "vanilla":
        made = [multiplied(linear, config) if isinstance(linear, QuantizedLinear) else linear for linear in linears]
        return SideBySide(made) if len(made) > 1 else made[0]
    joined = QuantizedTensor(
        torch.cat([linear.values for linear in linears]), torch.cat([linear.scale for linear in linears]), first.bits
    )
    bias = None if first.bias is None else torch.cat([linear.bias for linear in linears])
    return _cut(joined, bias, first.name, config)


def multiplied(linear: QuantizedLinear, config: ModelConfig) -> nn.Module:
    """A linear by itself, on int8 activations."""
    return _cut(linear.quantised, linear.bias, linear.name, config)


def tied_head(table: nn.Module, config: ModelConfig) -> nn.Module:
    """The head that multiplies with the token embedding."""
    if isinstance(table, QuantizedEmbedding):
        return _cut(table.quantised, None, table.name, config)
    head = nn.Linear(1, 1, bias=False, device="meta")
    head.weight = table.weight  # type: ignore[assignment]
    return head


def _cut(quantised: QuantizedTensor, bias: Tensor | None, name: str, config: ModelConfig) -> nn.Module:
    """Vanilla's image passes through the same layers in another method; whole, the two share their weights."""
    pieced = name.removesuffix(".weight").endswith(PIECED) and not name.startswith("vision_tower")
    group_size = quantised.group_size if quantised.bits == 4 else 0
    count = pieces_of(quantised.values.shape[1], group_size) if pieced and config.architecture != "vanilla" else 1
    return Pieces(quantised, bias, count) if count > 1 else _linear(quantised, bias)


def _integers(quantised: QuantizedTensor) -> nn.Parameter:
    """A weight that is multiplied with dynamically quantised activations, and that XNNPACK takes as it is."""
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as intx

    kind, block = getattr(torch, f"int{quantised.bits}"), (1, quantised.group_size)
    dynamic = intx.IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN
    zero = torch.zeros_like(quantised.scale, dtype=torch.int8)
    stored = IntxUnpackedToInt8Tensor(quantised.values, quantised.scale, zero, kind, block, torch.float32, dynamic)
    return nn.Parameter(stored, requires_grad=False)


def _linear(quantised: QuantizedTensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(1, 1, device="meta")
    made.weight = _integers(quantised)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return made


def read_back(bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
    """Parameter names with integers and scales of every quantised weight in a bundle's program.

    A weight stored whole is known by its digest. The decoder's others come in the order in which they are used: pieces
    of one input, until they make up its columns, with the rows of as many weights as were joined.
    """
    names = {sha256: name for name, sha256 in bundle.manifest.weights.items()}
    expected = _shapes(bundle.config)
    pieces: list[QuantizedTensor] = []
    for i, tensor in enumerate(_read_program(bundle.role_path("decoder"))):
        name = names.get(digest(tensor))
        if name is not None and not pieces:
            expected = [entry for entry in expected if entry[0] != name]
            yield name, tensor
            continue
        pieces.append(tensor)
        if not expected or sum(piece.values.shape[1] for piece in pieces) < expected[0][1][1]:
            continue
        whole = QuantizedTensor(
            torch.cat([piece.values for piece in pieces], 1), torch.cat([piece.scale for piece in pieces], 1),
            tensor.bits,
        )  # fmt: skip
        pieces, first = [], 0
        while expected and first < len(whole.values):
            name, (rows, _) = expected.pop(0)
            part = slice(first, first + rows)
            found = QuantizedTensor(whole.values[part], whole.scale[part], whole.bits)
            yield names.get(digest(found), f"unknown {i}: in the place of {name}"), found
            first += rows


def _shapes(config: ModelConfig) -> list[tuple[str, tuple[int, int]]]:
    """Names and shapes of the decoder's matrices, in the order in which they are used."""
    model = meta_model(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() == 2 and "_img." not in name}
    head = "model.embed_tokens.weight" if config.decoder.tie_word_embeddings else "lm_head.weight"
    names = [name for name in shapes if name.startswith("model.layers.")]
    return [(name, shapes[name]) for name in [*names, head]]  # type: ignore[misc]


def _read_program(path: Path) -> Iterator[QuantizedTensor]:
    """Every quantised weight that XNNPACK gets, from the program's delegates and the buffers they name."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(path.read_bytes())
    data = {key: file.named_data.buffers[entry.buffer_index] for key, entry in file.named_data.pte_data.items()}
    for delegate in file.program.backend_delegate_data:
        graph = _xnnpack_graph(bytes(delegate.data))
        buffers = [data.get(constant["named_key"]) for constant in graph["constant_data"]]
        for value in graph["xvalues"]:
            union = value["xvalue_union"]
            tensor = union.get("tensor_value", {})
            if tensor.get("constant_buffer_idx") and union.get("quant_params_type", "").startswith("PerChannel"):
                yield _unpack(tensor, union["quant_params"], buffers)


def _xnnpack_graph(delegate: bytes) -> Any:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(delegate[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as scratch:
        schema, graph = Path(scratch) / "schema.fbs", Path(scratch) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        graph.write_bytes(delegate[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(scratch, str(schema), str(graph), ["--raw-binary"])
        return json.loads(graph.with_suffix(".json").read_text())


def _unpack(tensor: Any, parameters: Any, buffers: list[Any]) -> QuantizedTensor:
    rows, columns = tensor["dims"]
    raw = torch.frombuffer(bytearray(buffers[tensor["constant_buffer_idx"]]), dtype=torch.uint8)
    scales = bytearray(buffers[parameters["scale_buffer_idx"]])
    if tensor["datatype"] == "xnn_datatype_qbint4":
        packed = raw[: rows * columns // 2].reshape(rows, columns // 2)
        values = (torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int16) - 8).to(torch.int8)
        scale = torch.frombuffer(scales, dtype=torch.bfloat16)[: parameters["num_scales"]].float()
        return QuantizedTensor(values, scale.reshape(rows, -1), 4)
    values = raw[: rows * columns].view(torch.int8).reshape(rows, columns)
    scale = torch.frombuffer(scales, dtype=torch.float32)[: parameters["num_scales"]]
    return QuantizedTensor(values, scale.reshape(rows, 1), 8)
