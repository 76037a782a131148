"""Forward and backward as CUDA graphs: where a model is small, starting its thousands of operations takes a GPU's time
several times over; a recorded graph starts them all at once (CUDA C++ Programming Guide, "CUDA Graphs")."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.training.batch import IGNORED, Batch
from himix_edge.training.objective import Losses, Objective
from himix_edge.training.recipe import Stage

ROWS, TOKENS, TARGETS = 64, 16, 1024  # a batch's sizes are rounded up to these, so that few shapes come up


@dataclass(frozen=True)
class Recorded:
    """A graph, the tensors that it reads, and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    scale: Tensor
    sums: Tensor


class GraphedStep:
    """Adds a batch's gradients to the parameters', for one stage of a run on one GPU.

    A shape's first batch runs as usual, which sets up the libraries; its second one is recorded; the others repeat it.
    """

    def __init__(self, objective: Objective, stage: Stage):
        self.objective, self.stage = objective, stage
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self.seen: set[tuple[torch.Size, ...]] = set()
        self.recorded: dict[tuple[torch.Size, ...], Recorded] = {}
        for parameter in objective.parameters():  # outside the graphs' memory
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: Batch, scale: float) -> Tensor:
        """Add the gradients of `scale` times the objective.

        Returns:
            float32 (3,): the cross-entropy of the answers, the divergence from a teacher, and the number of rows
            answered exactly.
        """
        batch = padded(batch)
        shape = tuple(tensor.shape for tensor in batch.tensors.values())
        if shape in self.recorded:
            return self._repeat(self.recorded[shape], batch, scale)
        device = next(self.objective.parameters()).device
        there, factor = batch.to(device), torch.tensor(scale, device=device)
        if shape not in self.seen:
            self.seen.add(shape)
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                sums = self._run(there, factor)
            torch.cuda.current_stream().wait_stream(self.stream)
            return sums
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            sums = self._run(there, factor)
        self.recorded[shape] = Recorded(graph, there, factor, sums)
        return self._repeat(self.recorded[shape], batch, scale)

    def _run(self, batch: Batch, scale: Tensor) -> Tensor:
        losses: Losses = self.objective(batch, self.stage)
        (losses.loss * scale).backward()
        asked = torch.zeros_like(losses.right).index_fill(0, batch.row_of_target, True)  # padding asks nothing
        return torch.stack([losses.answers, losses.divergence, (losses.right & asked).sum()])

    @staticmethod
    def _repeat(recorded: Recorded, batch: Batch, scale: float) -> Tensor:
        for name, tensor in batch.tensors.items():
            getattr(recorded.batch, name).copy_(tensor, non_blocking=True)
        recorded.scale.fill_(scale)
        recorded.graph.replay()
        return recorded.sums


def padded(batch: Batch) -> Batch:
    """The batch with rows, tokens and targets rounded up: what is added is asked nothing and changes no gradient.

    Its rows are decoded in one block, or two if some are not about an image: else hardly two batches had one shape.
    """
    rows, tokens = batch.input_ids.shape
    more_rows, more_tokens = -rows % ROWS, -tokens % TOKENS
    more_targets = -len(batch.labels) % TARGETS
    seeing = len(batch.image_of_row)
    more_seeing = more_rows if seeing == rows else 0  # the new rows are of the last rows' sort
    positions = batch.row_of_target * (tokens + more_tokens) + batch.positions % tokens
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, more_tokens, 0, more_rows)),
        image_of_row=F.pad(batch.image_of_row, (0, more_seeing)),
        positions=F.pad(positions, (0, more_targets)),
        labels=F.pad(batch.labels, (0, more_targets), value=IGNORED),
        blocks=tuple(
            (count, tokens + more_tokens)
            for count in (seeing + more_seeing, rows + more_rows - seeing - more_seeing)
            if count
        ),
    )
