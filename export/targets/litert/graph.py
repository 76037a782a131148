"""One graph of a .tflite file, built operator by operator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from himix_edge.export.targets.litert.model_file import ModelFile

Shape = tuple[int, ...]
NONE = -1  # in an operator's inputs: one that is left out
TYPES = {
    torch.float32: "FLOAT32", torch.float16: "FLOAT16", torch.int32: "INT32", torch.uint8: "UINT8",
    torch.int8: "INT8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, with its axes as PyTorch sees them: axis i is the stored tensor's axis `order[i]`.

    Transpositions only change `order`, until an operator needs the axes in their places.
    """

    number: int
    stored: Shape
    dtype: torch.dtype
    order: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        return tuple(self.stored[axis] for axis in self.order)

    @property
    def as_stored(self) -> "Value":
        """The same, seen as it is stored."""
        return Value(self.number, self.stored, self.dtype, tuple(range(len(self.stored))))

    @property
    def in_order(self) -> bool:
        return self == self.as_stored


class Graph:
    """A subgraph and its signature."""

    def __init__(self, file: ModelFile, name: str):
        self.file, self.name, self.schema = file, name, file.schema
        self._graph = self.schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = name, [], []
        self._constants: dict[object, int] = {}
        self._inputs: dict[str, int] = {}
        self._scales: dict[int, int] = {}  # of a weight in blocks, by its number

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Value:
        """What the graph takes."""
        value = self.value(shape, dtype, name)
        self._inputs[name] = value.number
        return value

    def value(self, shape: Sequence[int], dtype: torch.dtype, name: str = "") -> Value:
        """A tensor that is computed."""
        number = self._tensor(tuple(shape), TYPES[dtype], 0, name or f"{self.name}:{len(self._graph.tensors)}")
        return Value(number, tuple(shape), dtype, tuple(range(len(shape))))

    def constant(self, tensor: Tensor) -> Value:
        """A constant; whole numbers have 32 bits."""
        if tensor.dtype == torch.int64:
            tensor = tensor.to(torch.int32)
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        buffer = self.file.constant(tensor)
        key = buffer, tuple(tensor.shape), tensor.dtype
        if key not in self._constants:
            self._constants[key] = self._tensor(tuple(tensor.shape), TYPES[tensor.dtype], buffer, f"constant:{buffer}")
        return Value(self._constants[key], tuple(tensor.shape), tensor.dtype, tuple(range(tensor.dim())))

    def numbers(self, values: Sequence[int]) -> Value:
        """A constant of some whole numbers: axes, shapes, slices."""
        return self.constant(torch.tensor(list(values), dtype=torch.int32))

    def stored(
        self, name: str, shape: Shape, kind: str, buffer: int, scales: Value | None = None, **quantization: Any
    ) -> Value:
        """A constant of another type of numbers, known by its name.

        Args:
            name: of the tensor.
            shape: of what it stands for.
            kind: its type in the schema.
            buffer: number of the buffer.
            scales: of each block, where they are a tensor of their own.
            quantization: fields of the schema's QuantizationParameters.
        """
        if name not in self._constants:
            number = self._constants[name] = self._tensor(shape, kind, buffer, name)
            if quantization:
                parameters = self._graph.tensors[number].quantization = self.schema.QuantizationParametersT()
                for field, value in quantization.items():
                    setattr(parameters, field, value)
            if scales is not None:
                self._scales[number] = scales.number
        return Value(self._constants[name], shape, torch.float32, tuple(range(len(shape))))

    def operator(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: tuple[str, Mapping[str, object]] | None = None,
        version: int = 1,
    ) -> Value:
        """What an operator of the schema makes of values as they are stored; `options` are its table and fields."""
        assert all(value is None or value.in_order for value in inputs)
        made = self.value(shape, dtype)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.file.operator_code(kind, version)
        operator.inputs = [NONE if value is None else value.number for value in inputs]
        operator.outputs = [made.number]
        if options is not None:
            table, fields = options
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(self.schema, f"{table}T")()
            for field, value in fields.items():
                assert hasattr(operator.builtinOptions, field)
                setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)
        return made

    def finish(self, outputs: Mapping[str, Value]) -> None:
        """Put the graph into the file, without what nothing uses."""
        used = {value.number for value in outputs.values()} | set(self._inputs.values())
        kept = []
        for operator in reversed(self._graph.operators):
            if used & set(operator.outputs):
                kept.append(operator)
                used |= set(operator.inputs) - {NONE}
        used |= {scale for number, scale in self._scales.items() if number in used}
        places = {old: new for new, old in enumerate(sorted(used))} | {NONE: NONE}
        for operator in kept:
            operator.inputs = [places[number] for number in operator.inputs]
            operator.outputs = [places[number] for number in operator.outputs]
        for number, scale in self._scales.items():
            if number in used:
                self._graph.tensors[number].quantization.details.scales = places[scale]
        self._graph.operators = kept[::-1]
        self._graph.tensors = [self._graph.tensors[number] for number in sorted(used)]
        self._graph.inputs = [places[number] for number in self._inputs.values()]
        self._graph.outputs = [places[value.number] for value in outputs.values()]
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = self.name, len(self.file.model.subgraphs)
        signature.inputs = [self._port(name, places[number]) for name, number in self._inputs.items()]
        signature.outputs = [self._port(name, places[value.number]) for name, value in outputs.items()]
        self.file.model.signatureDefs.append(signature)
        self.file.model.subgraphs.append(self._graph)

    def _tensor(self, shape: Shape, kind: str, buffer: int, name: str) -> int:
        tensor = self.schema.TensorT()
        tensor.shape, tensor.hasRank, tensor.buffer, tensor.name = list(shape), True, buffer, name
        tensor.type = getattr(self.schema.TensorType, kind)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _port(self, name: str, number: int) -> Any:
        port = self.schema.TensorMapT()
        port.name, port.tensorIndex = name, number
        return port
