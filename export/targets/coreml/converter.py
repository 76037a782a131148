"""What coremltools lacks: operators that torch.export emits, and a way to compare constants in little memory."""

import hashlib
from collections.abc import Iterable
from typing import Protocol

from himix_edge.runtimes.coreml.mil import Function, Variable

LAST_UPDATES = "himix_edge::drop_last_updates"


class Context(Protocol):
    """The values of the program that coremltools is building."""

    def add(self, value: Variable, torch_name: str) -> None: ...


class Node(Protocol):
    """An operator of the exported graph, as coremltools sees it."""

    name: str


def register_conversions() -> None:
    """Register it all with coremltools, once."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    if "himix_edge_write_slots" not in _TORCH_OPS_REGISTRY:
        _register_operators()
        _register_deduplication()
        _register_last_updates()


def _register_operators() -> None:
    import numpy as np
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    def himix_edge_write_slots(context: Context, node: Node) -> None:
        cache, new, layer, start = _get_inputs(context, node)
        index, zero, one = layer.val, np.array([0], np.int32), np.int32(1)
        begin = Builder.concat(values=[np.array([index, 0], np.int32), start, zero], axis=0)
        after = Builder.add(x=start, y=np.int32(new.shape[2]))
        end = Builder.concat(values=[np.array([index + one, 0], np.int32), after, zero], axis=0)
        whole = [False, True, False, True]
        # each write goes to the state at once, where Core ML does it in place; else it copies the whole cache
        stored = cache
        while stored.op.op_type == "cast":  # a state is float16, and the program float32 until the end
            stored = stored.op.x
        state = stored.op.input if stored.op.op_type == "read_state" else stored.op.state
        written = Builder.slice_update(
            x=stored, update=Builder.cast(x=new, dtype="fp16"), begin=begin, end=end, begin_mask=whole, end_mask=whole
        )
        updated = Builder.coreml_update_state(state=state, value=written)
        context.add(Builder.cast(x=updated, dtype="fp32", name=node.name), torch_name=node.name)

    def himix_edge_alias(context: Context, node: Node) -> None:
        (x,) = _get_inputs(context, node, expected=1)
        context.add(Builder.identity(x=x, name=node.name), torch_name=node.name)

    register_torch_op(torch_alias=["himix_edge::write_slots"])(himix_edge_write_slots)
    register_torch_op(torch_alias=["alias"])(himix_edge_alias)


def _register_last_updates() -> None:
    """LAST_UPDATES drops what writes a state's own value to it: coremltools does so once more at a program's end."""
    from coremltools.converters.mil.mil import Program
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    namespace, name = LAST_UPDATES.split("::")

    @register_pass(namespace=namespace, name=name)
    class DropLastUpdates(AbstractGraphPass):
        def apply(self, prog: Program) -> None:
            for function in prog.functions.values():
                latest: dict[str, Variable] = {}
                for operation in list(function.operations):
                    if operation.op_type != "coreml_update_state":
                        continue
                    (made,) = operation.outputs
                    used = made.child_ops or made in function.outputs
                    if latest.get(operation.state.name) is operation.value and not used:
                        function.remove_ops([operation])
                    else:
                        latest[operation.state.name] = made


def _register_deduplication() -> None:
    """Constants are the same if their bytes are. coremltools compares in float64, in 24 times an integer's size."""
    import numpy as np
    from coremltools.converters.mil.mil import ListVar
    from coremltools.converters.mil.mil.passes.defs.cleanup import const_deduplication
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    @register_pass(namespace="common", override=True, name="const_deduplication")
    class ExactDeduplication(const_deduplication):
        @staticmethod
        def find_constants(blocks: Iterable[Function]) -> dict[Variable, list[Variable]]:
            """Each constant of the blocks with the others that are the same."""
            first: dict[tuple[object, ...], Variable] = {}
            duplicates: dict[Variable, list[Variable]] = {}
            for operation in (operation for block in blocks for operation in list(block.operations)):
                if operation.op_type != "const" or isinstance(variable := operation.outputs[0], ListVar):
                    continue
                if not const_deduplication.should_be_deduplicated(variable.val):
                    continue
                digest = hashlib.sha256(np.ascontiguousarray(variable.val).data).digest()
                key = (getattr(operation, "weight_key", None), variable.dtype, variable.shape, digest)
                if key in first:
                    duplicates[first[key]].append(variable)
                else:
                    first[key], duplicates[variable] = variable, []
            return duplicates
