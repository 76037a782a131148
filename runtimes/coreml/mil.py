"""What is asked of a MIL program, whose classes (coremltools.converters.mil.mil) have no types."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Variable(Protocol):
    """A value; of a constant `val` has it, `op` made it (None: an input or a state)."""

    name: str
    shape: Sequence[object]
    dtype: type
    op: "Operation | None"
    val: object


Several = list[Variable] | tuple[Variable, ...]
Given = Variable | Several | None


class Operation(Protocol):
    """An operator's use. Below `outputs`: inputs that only some have."""

    op_type: str
    name: str
    inputs: Mapping[str, Given]
    outputs: Several

    input: Variable  # of read_state
    state: Variable  # of coreml_update_state
    data: Variable  # of constexpr_blockwise_shift_scale, as the next two
    scale: Variable
    offset: Variable | None


class Function(Protocol):
    operations: Sequence[Operation]
    inputs: Mapping[str, Variable]
    outputs: Sequence[Variable]


class Program(Protocol):
    functions: Mapping[str, Function]
