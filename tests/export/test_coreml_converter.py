"""What coremltools is taught: which constants are one. And what it must not be given."""

import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from himix_edge.export.graphs import Embedding
from himix_edge.export.targets.coreml import target
from himix_edge.export.targets.coreml.converter import register_conversions
from himix_edge.runtimes.coreml.interpreter import Interpreter, load_program


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


def test_ids_of_large_vocabularies_are_looked_up_exactly(tmp_path):
    """Beside rows of pictures, in float16: it holds whole numbers up to 2048, and then every second one, fourth, ..."""
    ids = torch.tensor([[-1, 0, 2049, 31999, 49279, -1, 149999]], dtype=torch.int32)
    table = (torch.arange(150000) % 1999).float()[:, None].repeat(1, 2)
    module = Embedding(lambda ids: torch.nn.functional.embedding(ids, table))
    pictures = torch.full((1, ids.shape[1], 2), 0.5)
    path = tmp_path / "embedding.mlpackage"
    target._save(target._convert(module, (ids, pictures), None, ["x"], half=True), path)
    given = {"input_ids": ids, "vision_embeds": pictures}
    found = Interpreter(load_program(path), "main", path).run(given, {})
    assert found["x"][0, :, 0].tolist() == [
        0.5,
        *(float(i % 1999) for i in (0, 2049, 31999, 49279)),
        0.5,
        149999 % 1999,
    ]
