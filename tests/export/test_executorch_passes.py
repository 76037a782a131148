"""The passes that are left out change nothing: the programs are equal, byte for byte."""

import contextlib

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("executorch")

from himix_edge.export.graphs import quiet
from himix_edge.export.targets.executorch.passes import is_needed, needed_passes_only


class Convolutions(nn.Module):
    """Batch norm, activations, pooling, a transposed weight, a cat of more than five: what passes rewrite."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2), nn.PReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.body(x).mean((2, 3))
        return torch.cat([self.head(pooled * i).relu() for i in range(6)], 1)


class Attention(nn.Module):
    """What a decoder has: linears, a softmax, a constant made in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) + torch.full((1,), 0.5)
        return torch.softmax(scores, -1) @ x


CASES = {"convolutions": (Convolutions(), (1, 3, 16, 16)), "attention": (Attention(), (1, 5, 16))}


@pytest.mark.parametrize("case", CASES)
def test_the_same_program(case: str) -> None:
    module, shape = CASES[case]
    traced = torch.export.export(module.eval(), (torch.ones(shape),), strict=True)
    assert lowered(traced, needed_passes_only()) == lowered(traced, contextlib.nullcontext())


def test_a_pass_with_nothing_to_do_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from executorch.backends.xnnpack._passes import FuseBatchNormPass

    def refuse(*_: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(FuseBatchNormPass, "call", refuse)
    traced = torch.export.export(Attention().eval(), (torch.ones(1, 5, 16),), strict=True)
    lowered(traced, needed_passes_only())
    with pytest.raises(Exception, match="FuseBatchNormPass"):
        lowered(traced, contextlib.nullcontext())


def lowered(traced: torch.export.ExportedProgram, passes: contextlib.AbstractContextManager[None]) -> bytes:
    with quiet(), torch.no_grad(), passes:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        return bytes(to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def test_what_is_left_out() -> None:
    with quiet():
        from executorch.exir import to_edge

        graph = to_edge(torch.export.export(Attention(), (torch.ones(1, 5, 16),))).exported_program().graph
    some = {"ConvertToLinearPass", "ConvertToSDPAPass", "ConstPropPass", "a pass that a later version adds"}
    none = {"FuseBatchNormPass", "ChannelsLastTaggedReshapePass"}
    assert {name for name in some | none if is_needed(name, graph)} == some
