"""What coremltools is taught: which constants are one."""

import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from himix_edge.export.targets.coreml.converter import register_conversions


def constants(*values):
    """How many of the given constants are left in a program that adds all of them."""
    register_conversions()

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(200,))])
    def program(x):
        for value in values:
            x = Builder.add(x=x, y=Builder.const(val=value))
        return x

    PASS_REGISTRY["common::const_deduplication"](program)
    kept = [o.outputs[0].val for o in program.functions["main"].operations if o.op_type == "const"]
    return sum(getattr(value, "size", 1) == 200 for value in kept)


def test_equal_constants_become_one_and_others_stay():
    first = np.linspace(0, 1, 200, dtype=np.float32)
    last = first.copy()
    last[-1] += 1e-7  # beyond what a prefix would tell
    assert constants(first, first.copy(), first.copy()) == 1
    assert constants(first, last, first.copy()) == 2
    assert constants(first, first[::-1], first[::-1].copy()) == 2
