"""Operators that OpenVINO's converter doesn't know, in terms of those that it does.

The converter would get rid of them by tracing the whole program anew, which takes longer than the first trace; here
only the nodes in question are replaced.
"""

from operator import getitem

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument

aten = torch.ops.aten


def decompose(module: GraphModule) -> GraphModule:
    """A traced program in the converter's operators, changed in place."""
    graph = module.graph
    sizes = _sizes(graph)
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            new = _replacement(node, sizes)
        if new is not None:
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
        if new is not None or node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    module.recompile()
    return module


def _replacement(node: Node, sizes: dict[str, Node]) -> Node | None:
    """What stands for a node; None if it may stay."""
    call, given = node.graph.call_function, node.args
    if node.target in (aten.flatten.using_ints, aten.unflatten.int):
        return call(aten.view.default, (given[0], _shape(node, sizes)))
    if node.target is aten.to.dtype:
        return call(aten._to_copy.default, given[:1], {"dtype": given[1]})
    if node.target is aten.chunk.default:
        source, count, axis = given
        assert isinstance(source, Node)
        return call(aten.split.Tensor, (source, -(-source.meta["val"].shape[axis] // count), axis))
    if node.target is aten.conv2d.default:
        *most, groups = _filled(node, None, None, None, [1, 1], [0, 0], [1, 1], 1)
        return call(aten.convolution.default, (*most, False, [0, 0], groups))
    if node.target is aten.layer_norm.default:
        normed = call(aten.native_layer_norm.default, tuple(_filled(node, None, None, None, None, 1e-5)[:5]))
        return call(getitem, (normed, 0))
    return None


def _filled(node: Node, *defaults: Argument) -> list[Argument]:
    """A node's arguments, with defaults for those at the end that were not given."""
    return [*node.args, *defaults[len(node.args) :]]


def _sizes(graph: Graph) -> dict[str, Node]:
    """The program's symbols, each as the size of an input."""
    inputs = [node for node in graph.nodes if node.op == "placeholder" and hasattr(node.meta.get("val"), "shape")]
    sizes: dict[str, Node] = {}
    with graph.inserting_after(inputs[-1]) if inputs else graph.inserting_before():
        for node in inputs:
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int) and str(size) not in sizes:
                    sizes[str(size)] = graph.call_function(aten.sym_size.int, (node, axis))
                    sizes[str(size)].meta["val"] = size
    return sizes


def _shape(node: Node, sizes: dict[str, Node]) -> list[int | Node]:
    """The shape of what a node gives; at most one size that is no symbol by itself, as -1."""
    return [size if isinstance(size, int) else sizes.get(str(size), -1) for size in node.meta["val"].shape]
