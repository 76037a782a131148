"""PyTorch's operators in .tflite's, as torch.export leaves them: one function each, see `lowering`."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from himix_edge.export.targets.litert.graph import Shape, Value
from himix_edge.export.targets.litert.lowering import Handler, Lowering

aten = torch.ops.aten
Given = Value | Tensor
Number = float | int | bool
Function = TypeVar("Function", bound=Handler)
OPERATORS: dict[object, Handler] = {}
CHANNELS_LAST = (0, 3, 1, 2)  # where a stored map has batch, channels, rows and columns


def _of(*targets: object) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        OPERATORS.update(dict.fromkeys(targets, function))
        return function

    return register


# numbers, one at a time


def _binary(kind: str, table: str, *targets: object) -> None:
    def lowered(to: Lowering, shape: Shape, a: Given | Number, b: Given | Number, alpha: Number = 1) -> Value:
        assert alpha == 1
        dtype = next(x.dtype for x in (a, b) if isinstance(x, Value))
        a, b = (x if isinstance(x, Value) else torch.as_tensor(x).to(dtype) for x in (a, b))
        return to.elementwise(kind, [a, b], shape, dtype, table)

    _of(*targets)(lowered)


for _kind, _table, _name in (
    ("ADD", "AddOptions", "add"), ("SUB", "SubOptions", "sub"), ("MUL", "MulOptions", "mul"),
    ("DIV", "DivOptions", "div"), ("MAXIMUM", "MaximumMinimumOptions", "maximum"),
    ("MINIMUM", "MaximumMinimumOptions", "minimum"),
):  # fmt: skip
    _overloads = getattr(aten, _name)
    _binary(
        _kind, _table, *(getattr(_overloads, name) for name in _overloads.overloads() if name in ("Tensor", "default"))
    )


@_of(aten.rsub.Scalar)
def _rsub(to: Lowering, shape: Shape, a: Given, b: Number, alpha: Number = 1) -> Value:
    assert alpha == 1
    return to.elementwise("SUB", [torch.tensor(b, dtype=a.dtype), a], shape, a.dtype, "SubOptions")


def _comparison(kind: str, table: str, name: str) -> None:
    def lowered(to: Lowering, shape: Shape, a: Given | Number, b: Given | Number) -> Value:
        dtype = next(x.dtype for x in (a, b) if isinstance(x, Value))
        a, b = (x if isinstance(x, Value) else torch.as_tensor(x).to(dtype) for x in (a, b))
        return to.elementwise(kind, [a, b], shape, torch.bool, table)

    _of(getattr(aten, name).Scalar, getattr(aten, name).Tensor)(lowered)


for _kind, _table, _name in (
    ("LESS", "LessOptions", "lt"), ("LESS_EQUAL", "LessEqualOptions", "le"), ("GREATER", "GreaterOptions", "gt"),
    ("GREATER_EQUAL", "GreaterEqualOptions", "ge"), ("EQUAL", "EqualOptions", "eq"),
):  # fmt: skip
    _comparison(_kind, _table, _name)


def _unary(kind: str, table: str, *targets: object) -> None:
    _of(*targets)(lambda to, shape, x: to.unary(kind, x, table))


_unary("LOGISTIC", "", aten.sigmoid.default)
_unary("TANH", "", aten.tanh.default)
_unary("RELU", "", aten.relu.default)
_unary("RELU6", "", aten.relu6.default)
_unary("RSQRT", "", aten.rsqrt.default)
_unary("SQRT", "", aten.sqrt.default)
_unary("EXP", "ExpOptions", aten.exp.default)
_unary("NEG", "NegOptions", aten.neg.default)
_unary("ABS", "AbsOptions", aten.abs.default)


@_of(aten.silu.default)
def _silu(to: Lowering, shape: Shape, x: Value) -> Value:
    return to.elementwise("MUL", [x, to.unary("LOGISTIC", x)], shape, x.dtype, "MulOptions")


@_of(aten.gelu.default)
def _gelu(to: Lowering, shape: Shape, x: Value, approximate: str = "none") -> Value:
    return to.unary("GELU", x, "GeluOptions", approximate=approximate == "tanh")


@_of(aten.hardtanh.default)
def _hardtanh(to: Lowering, shape: Shape, x: Value, low: Number = -1, high: Number = 1) -> Value:
    return to.unary("RELU6", x) if (low, high) == (0, 6) else _clamp(to, shape, x, low, high)


@_of(aten.clamp.default)
def _clamp(to: Lowering, shape: Shape, x: Value, low: Number | None = None, high: Number | None = None) -> Value:
    for kind, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        if bound is not None:
            bounded = torch.tensor(bound, dtype=x.dtype)
            x = to.elementwise(kind, [x, bounded], shape, x.dtype, "MaximumMinimumOptions")
    return x


@_of(aten.pow.Tensor_Scalar)
def _pow(to: Lowering, shape: Shape, x: Value, exponent: Number) -> Value:
    if exponent == 2:
        return to.elementwise("MUL", [x, x], shape, x.dtype, "MulOptions")
    return to.elementwise("POW", [x, torch.tensor(float(exponent))], shape, x.dtype, "PowOptions")


@_of(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def _where(to: Lowering, shape: Shape, condition: Value, a: Given | Number, b: Given | Number) -> Value:
    # of two numbers the result is one of PyTorch's usual type
    dtype = next((x.dtype for x in (a, b) if isinstance(x, Value | Tensor)), torch.get_default_dtype())
    a, b = (x if isinstance(x, Value) else torch.as_tensor(x).to(dtype) for x in (a, b))
    return to.elementwise("SELECT_V2", [condition, a, b], shape, dtype, "SelectV2Options")


@_of(aten.to.dtype, aten._to_copy.default)
def _to(to: Lowering, shape: Shape, x: Value, dtype: torch.dtype, *_: object, **__: object) -> Value:
    dtype = torch.int32 if dtype == torch.int64 else dtype
    if dtype == x.dtype:
        return x
    made = to.graph.operator("CAST", [x.as_stored], x.stored, dtype)
    return Value(made.number, x.stored, dtype, x.order)


@_of(
    aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default, aten.dropout.default,
    aten.lift_fresh_copy.default,
)  # fmt: skip
def _same(to: Lowering, shape: Shape, x: Value, *_: object, **__: object) -> Value:
    return x


@_of(aten._assert_tensor_metadata.default)
def _nothing(*_: object, **__: object) -> list[Value]:
    return []


# axes


@_of(
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten._unsafe_view.default,
)  # fmt: skip
def _reshape(to: Lowering, shape: Shape, x: Value, *_: object) -> Value:
    return to.reshape(x, shape)


@_of(aten.permute.default)
def _permute(to: Lowering, shape: Shape, x: Value, axes: Sequence[int]) -> Value:
    return Value(x.number, x.stored, x.dtype, tuple(x.order[axis] for axis in axes))


@_of(aten.transpose.int)
def _transpose(to: Lowering, shape: Shape, x: Value, first: int, second: int) -> Value:
    order = list(x.order)
    order[first], order[second] = order[second], order[first]
    return Value(x.number, x.stored, x.dtype, tuple(order))


@_of(aten.t.default)
def _t(to: Lowering, shape: Shape, x: Value) -> Value:
    return _transpose(to, shape, x, 0, -1)


@_of(aten.expand.default)
def _expand(to: Lowering, shape: Shape, x: Value, *_: object, **__: object) -> Value:
    x = to.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    if x.shape == shape:
        return x
    return to.graph.operator("BROADCAST_TO", [to.ordered(x), to.graph.numbers(shape)], shape, x.dtype)


@_of(aten.repeat_interleave.self_int)
def _repeat(to: Lowering, shape: Shape, x: Value, repeats: int, dim: int, **_: object) -> Value:
    if repeats == 1:
        return x
    dim %= len(shape)
    lines = to.reshape(to.ordered(x), (math.prod(shape[:dim]) * x.shape[dim], 1, math.prod(shape[dim + 1 :])))
    made = _joined(to, [lines] * repeats, 1)
    return to.reshape(made, shape)


@_of(aten.cat.default)
def _cat(to: Lowering, shape: Shape, parts: Sequence[Given], dim: int = 0) -> Value:
    parts = [part for part in parts if math.prod(part.shape)]
    orders = {part.order for part in parts if isinstance(part, Value)}
    order = orders.pop() if len(orders) == 1 else tuple(range(len(shape)))
    made = _joined(to, [to.stored(part, order) for part in parts], order[dim])
    return Value(made.number, made.stored, made.dtype, order)


@_of(aten.stack.default)
def _stack(to: Lowering, shape: Shape, parts: Sequence[Given], dim: int = 0) -> Value:
    dim %= len(shape)
    whole = [to.reshape(part, (*part.shape[:dim], 1, *part.shape[dim:])) for part in parts]
    return _joined(to, [to.ordered(part) for part in whole], dim)


def _joined(to: Lowering, parts: Sequence[Value], axis: int) -> Value:
    shape = list(parts[0].stored)
    shape[axis] = sum(part.stored[axis] for part in parts)
    options = ("ConcatenationOptions", {"axis": axis})
    return to.graph.operator("CONCATENATION", parts, shape, parts[0].dtype, options)


@_of(aten.slice.Tensor)
def _slice(
    to: Lowering, shape: Shape, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    size = x.shape[dim]
    first, last, step = slice(start, end, step).indices(size)
    return _part(to, x, dim, first, len(range(first, last, step)), step)


def _part(to: Lowering, x: Value, dim: int, first: int, count: int, step: int = 1) -> Value:
    axis = x.order[dim]
    if count == x.stored[axis]:
        return x
    begin, shape = [0] * len(x.stored), list(x.stored)
    begin[axis], shape[axis] = first, count
    if step == 1:
        given = [x.as_stored, to.graph.numbers(begin), to.graph.numbers(shape)]
        made = to.graph.operator("SLICE", given, shape, x.dtype)
    else:
        end, strides = list(x.stored), [1] * len(x.stored)
        end[axis], strides[axis] = first + (count - 1) * step + 1, step
        given = [x.as_stored, *(to.graph.numbers(numbers) for numbers in (begin, end, strides))]
        made = to.graph.operator("STRIDED_SLICE", given, shape, x.dtype, ("StridedSliceOptions", {}))
    return Value(made.number, made.stored, x.dtype, x.order)


@_of(aten.select.int)
def _select(to: Lowering, shape: Shape, x: Value, dim: int, index: int) -> Value:
    return to.reshape(_part(to, x, dim, index % x.shape[dim], 1), shape)


@_of(aten.unbind.int)
def _unbind(to: Lowering, shape: Shape | None, x: Value, dim: int = 0) -> list[Value]:
    kept = tuple(size for axis, size in enumerate(x.shape) if axis != dim % len(x.shape))
    return [_select(to, kept, x, dim, index) for index in range(x.shape[dim])]


@_of(aten.chunk.default)
def _chunk(to: Lowering, shape: Shape | None, x: Value, chunks: int, dim: int = 0) -> list[Value]:
    return _split(to, shape, x, -(-x.shape[dim] // chunks), dim)


@_of(aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes)
def _split(to: Lowering, shape: Shape | None, x: Value, sizes: int | Sequence[int], dim: int = 0) -> list[Value]:
    whole = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - first) for first in range(0, whole, sizes)]
    return [_part(to, x, dim, sum(sizes[:i]), size) for i, size in enumerate(sizes)]


@_of(aten.pad.default, aten.constant_pad_nd.default)
def _pad(
    to: Lowering, shape: Shape, x: Value, pads: Sequence[int], mode: str = "constant", value: Number | None = None
) -> Value:
    assert mode == "constant"
    assert not value
    return _padded(to, x, {-1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)})


def _padded(to: Lowering, x: Value, pads: dict[int, tuple[int, int]]) -> Value:
    around = torch.zeros(len(x.stored), 2, dtype=torch.int32)
    shape = list(x.stored)
    for dim, (before, behind) in pads.items():
        around[x.order[dim]] = torch.tensor([before, behind])
        shape[x.order[dim]] += before + behind
    made = to.graph.operator("PAD", [x.as_stored, to.graph.constant(around)], shape, x.dtype, ("PadOptions", {}))
    return Value(made.number, made.stored, x.dtype, x.order)


# sums and norms


def _reduced(to: Lowering, kind: str, x: Value, dims: Sequence[int], keep: bool, shape: Shape) -> Value:
    axes = sorted(x.order[dim] for dim in dims)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.stored))
    options = ("ReducerOptions", {"keepDims": True})
    made = to.graph.operator(kind, [x.as_stored, to.graph.numbers(axes)], kept, x.dtype, options)
    whole = Value(made.number, kept, x.dtype, x.order)
    return whole if keep else to.reshape(whole, shape)


@_of(aten.mean.dim)
def _mean(to: Lowering, shape: Shape, x: Value, dims: Sequence[int], keepdim: bool = False, **_: object) -> Value:
    return _reduced(to, "MEAN", x, dims, keepdim, shape)


@_of(aten.sum.dim_IntList)
def _sum(to: Lowering, shape: Shape, x: Value, dims: Sequence[int], keepdim: bool = False, **_: object) -> Value:
    return _reduced(to, "SUM", x, dims, keepdim, shape)


@_of(aten.amax.default)
def _amax(to: Lowering, shape: Shape, x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    return _reduced(to, "REDUCE_MAX", x, dims, keepdim, shape)


@_of(aten.max.dim)
def _max(to: Lowering, shape: Shape | None, x: Value, dim: int, keepdim: bool = False) -> list[Value]:
    dim %= len(x.shape)
    left = tuple(size for axis, size in enumerate(x.shape) if axis != dim)
    shape = (*x.shape[:dim], 1, *x.shape[dim + 1 :]) if keepdim else left
    options = ("ArgMaxOptions", {"outputType": to.graph.schema.TensorType.INT32})
    places = to.graph.operator("ARG_MAX", [to.ordered(x), to.graph.numbers([dim])], left, torch.int32, options)
    return [_reduced(to, "REDUCE_MAX", x, [dim], keepdim, shape), to.reshape(places, shape)]


def _scaled(to: Lowering, x: Value, squares_of: Value, eps: float, weight: Tensor | None, bias: Tensor | None) -> Value:
    """x by the root of the mean of another's squares, then weight and bias."""
    shape, dtype = x.shape, x.dtype
    line = (*shape[:-1], 1)
    squares = to.elementwise("MUL", [squares_of, squares_of], shape, dtype, "MulOptions")
    mean = _reduced(to, "MEAN", squares, [-1], True, line)
    root = to.unary("RSQRT", to.elementwise("ADD", [mean, torch.tensor(eps)], line, dtype, "AddOptions"))
    x = to.elementwise("MUL", [x, root], shape, dtype, "MulOptions")
    if weight is not None:
        x = to.elementwise("MUL", [x, weight], shape, dtype, "MulOptions")
    return x if bias is None else to.elementwise("ADD", [x, bias], shape, dtype, "AddOptions")


@_of(aten.rms_norm.default)
def _rms_norm(
    to: Lowering, shape: Shape, x: Value, size: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Value:
    assert len(size) == 1
    x = to.ordered(x)
    return _scaled(to, x, x, torch.finfo(torch.float32).eps if eps is None else eps, weight, None)


@_of(aten.layer_norm.default)
def _layer_norm(
    to: Lowering, shape: Shape, x: Value, size: list[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, *_: object,
) -> Value:  # fmt: skip
    assert len(size) == 1
    x = to.ordered(x)
    mean = _reduced(to, "MEAN", x, [-1], True, (*shape[:-1], 1))
    centered = to.elementwise("SUB", [x, mean], shape, x.dtype, "SubOptions")
    return _scaled(to, centered, centered, eps, weight, bias)


@_of(aten.softmax.int, aten._softmax.default)
def _softmax(to: Lowering, shape: Shape, x: Value, dim: int, *_: object) -> Value:
    assert dim in (-1, len(shape) - 1)
    return to.graph.operator("SOFTMAX", [to.ordered(x)], shape, x.dtype, ("SoftmaxOptions", {"beta": 1.0}))


# matrices


@_of(aten.linear.default)
def _linear(to: Lowering, shape: Shape, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    return fully_connected(to, x, to.value(weight), bias)


def fully_connected(to: Lowering, x: Value, weight: Value, bias: Tensor | None, version: int = 1) -> Value:
    """x (..., columns) by a weight (rows, columns)."""
    shape = (*x.shape[:-1], weight.shape[0])
    options = ("FullyConnectedOptions", {"keepNumDims": True, "asymmetricQuantizeInputs": version > 1})
    given = [to.ordered(x), weight, None if bias is None else to.value(bias)]
    return to.graph.operator("FULLY_CONNECTED", given, shape, torch.float32, options, version)


@_of(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(to: Lowering, shape: Shape, a: Given, b: Given) -> Value:
    if isinstance(b, Tensor) and b.dim() == 2:
        return fully_connected(to, to.value(a), to.value(b.T.contiguous()), None)
    b = to.value(b)
    swapped = (*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2)
    options = ("BatchMatMulOptions", {"adjY": b.order == swapped})
    given = [to.ordered(a), to.stored(b, swapped) if b.order == swapped else to.ordered(b)]
    return to.graph.operator("BATCH_MATMUL", given, shape, torch.float32, options)


@_of(aten.scaled_dot_product_attention.default)
def _attention(
    to: Lowering, shape: Shape, query: Value, key: Value, value: Value, mask: Given | None = None, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    assert not causal
    assert not dropout
    assert not enable_gqa
    factor = torch.tensor(query.shape[-1] ** -0.5 if scale is None else scale)
    query = to.elementwise("MUL", [query, factor], query.shape, query.dtype, "MulOptions")
    across = _transpose(to, (), to.value(key), -1, -2)
    scores = _matmul(to, (*query.shape[:-1], key.shape[-2]), query, across)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, HIDDEN)
    if mask is not None:
        scores = to.elementwise("ADD", [scores, mask], scores.shape, scores.dtype, "AddOptions")
    return _matmul(to, shape, _softmax(to, scores.shape, scores, -1), value)


HIDDEN = -1e9  # added to a score whose key is not to be seen


@_of(aten.embedding.default)
def _embedding(to: Lowering, shape: Shape, table: Tensor, ids: Value, *_: object) -> Value:
    return _gathered(to, to.value(table), ids, 0, shape)


@_of(aten.index_select.default)
def _index_select(to: Lowering, shape: Shape, x: Value, dim: int, index: Value) -> Value:
    return _gathered(to, to.ordered(x), index, dim % len(x.shape), shape)


def _gathered(to: Lowering, x: Value, index: Given, axis: int, shape: Shape) -> Value:
    return to.graph.operator("GATHER", [x, to.ordered(index)], shape, x.dtype, ("GatherOptions", {"axis": axis}))


# convolutions


@_of(aten.conv2d.default)
def _conv2d(
    to: Lowering, shape: Shape, x: Value, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0), dilation: Sequence[int] = (1, 1), groups: int = 1,
) -> Value:  # fmt: skip
    kernel, size = weight.shape[2:], x.shape[2:]
    stride, padding, dilation = (list(each) * (2 // len(each)) for each in (stride, padding, dilation))
    same = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, s, k, d in zip(size, stride, kernel, dilation, strict=True)
    ]
    fits = all(total == 2 * pad for total, pad in zip(same, padding, strict=True)) and any(padding)
    if any(padding) and not fits:
        x = _padded(to, x, {-2: (padding[0], padding[0]), -1: (padding[1], padding[1])})
    depthwise = groups == x.shape[1] and groups > 1
    table = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    fields: dict[str, object] = {
        "padding": getattr(to.graph.schema.Padding, "SAME" if fits else "VALID"),
        "strideH": stride[0], "strideW": stride[1], "dilationHFactor": dilation[0], "dilationWFactor": dilation[1],
    }  # fmt: skip
    if depthwise:
        fields["depthMultiplier"] = weight.shape[0] // groups
        stored = weight.permute(1, 2, 3, 0)
    else:
        stored = weight.permute(0, 2, 3, 1)
    bias = torch.zeros(len(weight)) if bias is None else bias
    given = [to.stored(x, CHANNELS_LAST), to.value(stored.contiguous()), to.value(bias)]
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    made = to.graph.operator(kind, given, [shape[axis] for axis in (0, 2, 3, 1)], torch.float32, (table, fields))
    return Value(made.number, made.stored, made.dtype, CHANNELS_LAST)
