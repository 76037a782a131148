"""XNNPACK's passes, without those that have nothing to do.

ExecuTorch runs seventeen over every delegated part of a program, and nearly all of them end by tracing the part anew,
which is most of a large export's time. Here a pass is left out of a part that has none of the operators it rewrites;
the program is the same, byte for byte.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol
from unittest import mock

from torch.export import ExportedProgram
from torch.fx import Graph, Node

CHANNELS_LAST = ("convolution", "upsample", "mean.dim", "max_pool2d", "amax", "max.dim", "avg_pool2d", "prelu")
REWRITES = {  # pass -> the operators, by the start of their names; passes that aren't here always run
    "DimOrderOpsRevertPass": ("dim_order_ops",),
    "ConvertToUpsampleBilinear2d": ("aten.index", "aten._unsafe_index", "aten.upsample"),
    "ConvertToLinearPass": ("aten.mm", "aten.addmm", "aten.bmm"),
    "ConvertToSDPAPass": ("aten._softmax",),
    "FuseBatchNormPass": ("aten.native_batch_norm", "aten._native_batch_norm"),
    "DecomposeBatchNorm": ("aten.native_batch_norm", "aten._native_batch_norm"),
    "FuseActivationPass": ("aten.relu", "aten.hardtanh"),
    "DecomposeConcatenate": ("aten.cat",),
    "RemoveGetItemPass": ("aten.max",),
    "Conv1dUnsqueezePass": ("aten.convolution",),
    "PReLUReshapePass": ("aten._prelu_kernel",),
    "RemoveRedundantCopyPass": ("aten._to_copy",),
}


class _Manager(Protocol):
    """What is touched of an XNNPACKPassManager."""

    passes: list[type]
    exported_program: ExportedProgram
    _exported_program: ExportedProgram


@contextlib.contextmanager
def needed_passes_only() -> Iterator[None]:
    """Lower to XNNPACK inside of this."""
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    run = XNNPACKPassManager.transform

    def run_needed(self: _Manager) -> ExportedProgram:
        for each in list(self.passes):
            if is_needed(each.__name__, self.exported_program.graph):
                self.passes = [each]
                self._exported_program = run(self)
        return self.exported_program

    with mock.patch.object(XNNPACKPassManager, "transform", run_needed):
        yield


def is_needed(name: str, graph: Graph) -> bool:
    """Whether the pass may find something in this part."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if name in REWRITES:
        return any(_name(node).startswith(REWRITES[name]) for node in calls)
    if name == "PropagateCustomMetaPass":
        return any("custom" in node.meta for node in graph.nodes)
    if name == "ConstPropPass":
        return any(not node.all_input_nodes for node in calls)
    if name == "ChannelsLastTaggedReshapePass":
        return any(_name(node).removeprefix("aten.").startswith(CHANNELS_LAST) for node in calls)
    return True


def _name(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
