"""The gate's stage "adapter": the graphs with a random adapter against the PyTorch model that has it, and taken off."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from himix_edge.adapter_file import Adapter
from himix_edge.bundle import Bundle
from himix_edge.data import Sample
from himix_edge.export.graphs import share_weights
from himix_edge.export.parity import Gate
from himix_edge.export.quantization.tensors import QuantizedModel
from himix_edge.export.tolerance import Tolerance, Tolerances
from himix_edge.export.traces import Array, distance
from himix_edge.low_rank import DOWN, UP, adapter_linears
from himix_edge.model import VisionLanguageModel
from himix_edge.model.adapted import Factors, adapt
from himix_edge.runtimes.adapter import AdapterRoom, NoRoom, adapter_room, no_adapter
from himix_edge.runtimes.engine import Engine, as_adaptable

SIZE = 0.1  # of what a random adapter adds to a linear's output, in sizes of that
QUESTIONS = 4


def random_adapter(model: VisionLanguageModel, rank: int, base: str, seed: int = 0) -> Adapter:
    """One of every linear that takes adapters, large enough that a model without it says something else."""
    generator = np.random.default_rng(seed)
    modules, tensors = dict(model.named_modules()), {}
    for name, (columns, rows) in adapter_linears(model.config).items():
        weight: Tensor = modules[name].weight  # type: ignore[assignment]  # every linear has one
        size = SIZE * float(weight.square().mean().sqrt()) * (columns / rank) ** 0.5
        tensors[name + DOWN] = (generator.standard_normal((columns, rank)) * columns**-0.5).astype(np.float32)
        tensors[name + UP] = (generator.standard_normal((rank, rows)) * size * columns**0.5).astype(np.float32)
    return Adapter(tensors, rank, base, "a random adapter")


def with_adapter(model: QuantizedModel, room: AdapterRoom, adapter: Adapter) -> QuantizedModel:
    """The reference with an adapter in float beside its linears."""
    _, factors = room.open(adapter)
    fitted = {name: tensor for of_role in factors.values() for name, tensor in of_role.items()}
    chosen = Factors(adapter_linears(model.reference.config))
    chosen.set([torch.from_numpy(fitted[name]) for name in chosen.names])
    reference = share_weights(model.reference)
    adapt(reference, chosen)
    return replace(model, reference=reference)


class AdaptedGate(Gate):
    """Some of a gate's questions, asked of the reference with an adapter."""

    def __init__(self, gate: Gate, samples: Sequence[Sample], room: AdapterRoom):
        """`samples`: the gate's own."""
        adapter = random_adapter(gate.model.reference, room.rank, room.base)
        self._factors, self._plain = room.open(adapter)[1], gate
        few = [replace(sample, conversations=sample.conversations[:1]) for sample in samples[:QUESTIONS]]
        super().__init__(with_adapter(gate.model, room, adapter), gate.text, tuple(few), gate.capacity)

    def check_exact(
        self, engine: Engine, allowed: Tolerances, shipped: Tolerance, reference: VisionLanguageModel
    ) -> None:
        """Stage "adapter": as the gate's "packed"; `reference` is what the engine computes with the adapter."""
        with self._adapted("adapter", engine):
            if reference is self.model.reference:
                self.check_engine("adapter", allowed.exact, engine)
            else:
                self.check_emulated("adapter", allowed.emulated or allowed.exact, shipped, engine, reference)

    def check_shipped(self, engine: Engine, shipped: Tolerance) -> None:
        """Stage "adapter, as it ships": as the gate's "runtime"."""
        with self._adapted("adapter, as it ships", engine):
            self.check_engine("adapter, as it ships", shipped, engine)

    @contextlib.contextmanager
    def _adapted(self, stage: str, engine: Engine) -> Iterator[None]:
        """The engine with the adapter; behind it, when it is taken off, it has to say what it said before."""
        before = self._first_logits(engine)
        as_adaptable(engine).use_adapter(self._factors)
        yield
        as_adaptable(engine).use_adapter(no_adapter(self.model.reference.config))
        self._at_most(stage, "taken off", "max diff / std", distance(before, self._first_logits(engine)), 0.0)

    def _first_logits(self, engine: Engine) -> Array:
        question = self._plain.questions[0]
        features = question.reference.features
        return self._run(engine, features, question.ids, question.ahead, question.reference).logits


def adapted_gate(gate: Gate, samples: Sequence[Sample], bundle: Bundle) -> AdaptedGate | None:
    """The gate's further questions to a bundle that takes adapters; None for another one."""
    room = adapter_room(bundle)
    return None if isinstance(room, NoRoom) else AdaptedGate(gate, samples, room)
