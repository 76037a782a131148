"""A traced PyTorch program as a graph of a .tflite file: what of it is constant is computed, the rest is translated.

One function for each of PyTorch's operators is in `operators`. A transposition only changes how a value's axes are
seen, until an operator needs them in order; so a convolution, whose channels PyTorch has first and .tflite last, costs
none where another one follows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from himix_edge.errors import InputError
from himix_edge.export.targets.litert.graph import Graph, Shape, Value

Handler = Callable[..., Value | list[Value]]


class Lowering:
    """What operators need: emitting in the graph, and constants as values."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._before_reshape: dict[int, Value] = {}

    def value(self, x: Value | Tensor | float) -> Value:
        """A value, or a constant as one."""
        if isinstance(x, Value):
            return x
        return self.graph.constant(x if isinstance(x, Tensor) else torch.tensor(x))

    def ordered(self, x: Value | Tensor | float, order: Sequence[int] | None = None) -> Value:
        """A value whose stored axes are PyTorch's, or stand in `order`: stored axis `order[i]` is PyTorch's axis i."""
        x = self.value(x)
        order = tuple(range(len(x.order)) if order is None else order)
        if x.order == order:
            return x
        # stored axis j of the new tensor is PyTorch's axis i with order[i] == j
        axes = [x.order[order.index(j)] for j in range(len(order))]
        shape = tuple(x.stored[axis] for axis in axes)
        moved = [axis for axis in axes if x.stored[axis] != 1]
        if moved == sorted(moved):
            made = self._reshaped(x.as_stored, shape)
        else:
            made = self.graph.operator("TRANSPOSE", [x.as_stored, self.graph.numbers(axes)], shape, x.dtype)
        return Value(made.number, shape, x.dtype, order)

    def stored(self, x: Value | Tensor, order: Sequence[int]) -> Value:
        """As `ordered`, but seen as it is stored."""
        return self.ordered(x, order).as_stored

    def reshape(self, x: Value | Tensor, shape: Sequence[int]) -> Value:
        """PyTorch's reshape; transposed axes stay so where they are only split or joined."""
        x, shape = self.value(x), tuple(shape)
        if x.shape == shape:
            return x
        kept = None if x.in_order else reordered(x.stored, x.order, shape)
        if kept is None:
            return self._reshaped(self.ordered(x), shape)
        stored, order = kept
        return Value(self._reshaped(x.as_stored, stored).number, stored, x.dtype, order)

    def _reshaped(self, x: Value, shape: Shape) -> Value:
        x = self._before_reshape.get(x.number, x)
        if x.stored == shape:
            return x
        options = ("ReshapeOptions", {"newShape": list(shape)})
        made = self.graph.operator("RESHAPE", [x, self.graph.numbers(shape)], shape, x.dtype, options)
        self._before_reshape[made.number] = x
        return made

    def elementwise(
        self, kind: str, inputs: Sequence[Value | Tensor | float], shape: Shape, dtype: torch.dtype, table: str = ""
    ) -> Value:
        """An operator that broadcasts its inputs to `shape`; where one is transposed, so is what it makes."""
        values = [x for x in inputs if isinstance(x, Value)]
        orders = {x.order for x in values if len(x.shape) == len(shape)}
        order = orders.pop() if len(orders) == 1 else tuple(range(len(shape)))
        if order != tuple(range(len(shape))) and any(len(x.shape) not in (0, len(shape)) for x in values):
            order = tuple(range(len(shape)))
        given = [self._broadcast(x, order) for x in inputs]
        stored = tuple(shape[order.index(j)] for j in range(len(shape)))
        made = self.graph.operator(kind, given, stored, dtype, (table, {}) if table else None)
        return Value(made.number, stored, dtype, order)

    def _broadcast(self, x: Value | Tensor | float, order: tuple[int, ...]) -> Value:
        if order == tuple(range(len(order))):
            return self.ordered(x)
        if isinstance(x, Value):
            return x if not x.shape else self.stored(x, order)
        x = x if isinstance(x, Tensor) else torch.tensor(x)
        if not x.dim():
            return self.value(x)
        whole = x.reshape([1] * (len(order) - x.dim()) + list(x.shape))
        return self.value(whole.permute([order.index(j) for j in range(len(order))]).contiguous())

    def unary(self, kind: str, x: Value, table: str = "", **fields: object) -> Value:
        """An operator that looks at one number at a time."""
        made = self.graph.operator(kind, [x.as_stored], x.stored, x.dtype, (table, fields) if table else None)
        return Value(made.number, x.stored, x.dtype, x.order)


def reordered(stored: Shape, order: tuple[int, ...], shape: Shape) -> tuple[Shape, tuple[int, ...]] | None:
    """The stored shape and order of a transposed tensor after a reshape that moves nothing; None if it has to.

    The axes fall into groups of equal size before and after; each group's axes have to stand side by side as stored.
    """
    before = tuple(stored[axis] for axis in order)
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(shape):
        first = i, j
        sizes = [1, 1]
        i, j = i + 1, j + 1
        sizes = [math.prod(before[first[0] : i]), math.prod(shape[first[1] : j])]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                if i >= len(before):
                    return None
                i += 1
            else:
                if j >= len(shape):
                    return None
                j += 1
            sizes = [math.prod(before[first[0] : i]), math.prod(shape[first[1] : j])]
        groups.append((range(first[0], min(i, len(before))), range(first[1], min(j, len(shape)))))
    places = []
    for old, _ in groups:
        axes = [order[axis] for axis in old]
        if not axes or axes != list(range(axes[0], axes[0] + len(axes))):
            return None
        places.append(axes[0])
    made: list[int] = []
    new = [0] * len(shape)
    for group in sorted(range(len(groups)), key=places.__getitem__):
        for axis in groups[group][1]:
            new[axis] = len(made)
            made.append(shape[axis])
    return tuple(made), tuple(new)


def lower(
    program: ExportedProgram,
    graph: Graph,
    inputs: Sequence[str],
    outputs: Sequence[str],
    handlers: Mapping[object, Handler],
    size: int = 0,
) -> None:
    """Translate a program into the graph, which is finished then.

    Args:
        program: traced, with at most one size that is not fixed.
        graph: an empty one.
        inputs: names of what the program takes.
        outputs: names of what it gives.
        handlers: an operator of PyTorch -> what translates it.
        size: what the size that is not fixed is here.

    Raises:
        InputError: an operator that has no counterpart here, by its name.
    """
    lowering, names = Lowering(graph), iter(inputs)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    held = {**program.state_dict, **program.constants}
    made: dict[Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if isinstance(spec.arg, ConstantArgument):
                made[node] = spec.arg.value
            elif spec.kind is InputKind.USER_INPUT:
                example = node.meta["val"]
                made[node] = graph.input(next(names), _shape(example, size), example.dtype)
            else:
                made[node] = held[spec.target]
        elif node.op == "get_attr":
            made[node] = getattr(program.graph_module, node.target)
        elif node.op == "call_function":
            made[node] = _call(lowering, node, made, handlers, size)
        else:
            (results,) = node.args
            values = [lowering.ordered(made[result]) for result in results]
            graph.finish(dict(zip(outputs, values, strict=True)))


def _call(
    lowering: Lowering, node: Node, made: dict[Node, Any], handlers: Mapping[object, Handler], size: int
) -> object:
    args: Any = map_arg(node.args, made.__getitem__)
    kwargs: Any = map_arg(node.kwargs, made.__getitem__)
    if not any(isinstance(x, Value) for x in pytree.tree_leaves((args, kwargs))):
        assert callable(node.target)
        return node.target(*args, **kwargs)
    if node.target is getitem:
        return args[0][args[1]]
    if node.target is torch.ops.aten.sym_size.int:
        return args[0].shape[args[1]]
    handler = handlers.get(node.target)
    if handler is None:
        raise InputError(f"LiteRT has no counterpart of {node.target} here; take another target for this model")
    example = node.meta.get("val")
    return handler(lowering, _shape(example, size) if isinstance(example, Tensor) else None, *args, **kwargs)


def _shape(example: Tensor, size: int) -> Shape:
    """A traced tensor's shape, where `size` stands for what is not fixed."""
    known = (s if isinstance(s, int) else s.node.expr for s in example.shape)
    return tuple(s if isinstance(s, int) else int(s.subs(dict.fromkeys(s.free_symbols, size))) for s in known)
