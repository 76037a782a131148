"""From PyTorch modules to an .aimodel folder, by Apple's coreai-torch."""

import contextlib
import importlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from himix_edge.export.graphs import quiet


@dataclass(frozen=True)
class Function:
    """One entry point of a program: what is traced, with what, and the names of what goes in, comes out and stays."""

    name: str
    module: nn.Module
    arguments: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    states: Sequence[str] = ()


def save_program(functions: Sequence[Function], path: Path) -> list[Path]:
    """Convert functions and save them as one program. Returns its files, the main one first."""
    with quiet():
        for first in ("coreai.authoring", "coreai_torch._compression.custom_layers"):  # in this order; they register
            importlib.import_module(first)
        import coreai_torch

    converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
    converter.register_torch_lowering("himix_edge::write_slots.default")(_write_slots)
    with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        for function in functions:
            program = torch.export.export(function.module.eval(), function.arguments)
            converter.add_exported_program(
                program.run_decompositions(coreai_torch.get_decomp_table()),
                input_names=list(function.inputs), output_names=list(function.outputs),
                state_names=list(function.states), entrypoint_name=function.name,
            )  # fmt: skip
        made = converter.to_coreai()
        shutil.rmtree(path, ignore_errors=True)
        made.save_asset(path)
    main = path / "main.mlirb"
    return [main, *sorted(each for each in path.iterdir() if each != main)]


def _write_slots(values: Any, node: torch.fx.Node, location: Any) -> Any:
    """cache (L, G, C, h) with new (1, G, T, h) at slots start.. of one layer."""
    from coreai._compiler.dialects import coreai
    from coreai_torch._utils import get_operand

    cache, new, start = (get_operand(values, node, i, location) for i in (0, 1, 3))
    layer, written = node.args[2], node.args[1]
    assert isinstance(layer, int)
    assert isinstance(written, torch.fx.Node)
    _, heads, tokens, size = written.meta["val"].shape

    def number(*values: int) -> Any:
        return coreai.constant(np.array(values, np.int32))

    begin = coreai.concat(0, [number(layer, 0), start, number(0)])
    end = coreai.concat(0, [number(layer + 1, heads), coreai.add(start, number(tokens)), number(size)])
    return coreai.slice_update(cache, begin, end, [1, 1, 1, 1], new)
