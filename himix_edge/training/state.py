"""A run's state on disk: what has learned, the optimiser, and how far it came. Replaced atomically, never unpickled."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    DictValueType,
    StateDictOptions,
    ValueType,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from himix_edge.errors import InputError
from himix_edge.folders import Replacing, staged_folder
from himix_edge.reading import read_json, validated
from himix_edge.training.folder import STATE_KIND

LEARNED, OPTIMIZER, STATE = "learned.safetensors", "optimizer.safetensors", "train_state.json"
EARLIER = Replacing(STATE_KIND, force=True)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


@dataclass(frozen=True)
class _State:
    """train_state.json."""

    step: int
    seconds: float
    flops: dict[str, tuple[int, int]]
    identity: str


@dataclass
class Progress:
    """How far a run came: steps done, seconds spent, FLOPs counted by stage as (sum, counted steps)."""

    step: int = 0
    seconds: float = 0.0
    flops: dict[str, tuple[int, int]] = field(default_factory=dict)

    def count_flops(self, stage: str, flops: int) -> None:
        """Add a step's FLOPs to its stage's."""
        total, count = self.flops.get(stage, (0, 0))
        self.flops[stage] = (total + flops, count + 1)

    def flops_of(self, stage: str, steps: int) -> int:
        """Of a whole stage of so many steps, from the mean of those that were counted."""
        total, count = self.flops.get(stage, (0, 0))
        return total * steps // max(1, count)


def learned_tensors(objective: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """The parameters called `names`, whole and on the CPU; every process of a run has to ask."""
    whole = get_model_state_dict(objective, options=WHOLE)
    return {name: found.contiguous() for name, found in whole.items() if name in names and isinstance(found, Tensor)}


def save_state(
    last: Path, learned: dict[str, Tensor], optimizer: dict[str, Tensor], progress: Progress, identity: str
) -> None:
    """Write `last/`; after a kill at any moment the old one or the new one is there."""
    with staged_folder(last, EARLIER) as staged:
        save_file(learned, staged / LEARNED)
        save_file(optimizer, staged / OPTIMIZER)
        state = {"step": progress.step, "seconds": progress.seconds, "flops": progress.flops, "identity": identity}
        (staged / STATE).write_text(json.dumps(state, indent=2) + "\n")


def optimizer_tensors(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter name, whole and on the CPU; every process of a run has to ask."""
    state = get_optimizer_state_dict(objective, optimizer, options=WHOLE).get("state")  # the first process's
    return {
        f"{name}.{key}": value.contiguous()
        for name, values in (state.items() if isinstance(state, dict) else ())
        for key, value in (values.items() if isinstance(values, dict) else ()) if isinstance(value, Tensor)
    }  # fmt: skip


def read_progress(last: Path, identity: str) -> Progress:
    """How far the run in `last/` came.

    Raises:
        InputError: nothing that can be read there, or a run with other settings, data or seed.
    """
    state = validated(_State, read_json(last / STATE), str(last / STATE))
    if state.identity != identity:
        raise InputError(f"{last}: made with other settings, data or seed; resume with the same ones or start anew")
    return Progress(state.step, state.seconds, state.flops)


def restore_learned(last: Path, objective: nn.Module) -> None:
    """Load what had learned into an objective that is not wrapped yet."""
    learned: DictValueType = dict(load_file(last / LEARNED))
    set_model_state_dict(objective, learned, options=WHOLE)


def restore_optimizer(last: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's state, which belongs to the stage that was going on."""
    state: dict[str, dict[str, ValueType]] = {}
    for place, tensor in load_file(last / OPTIMIZER).items():
        name, _, key = place.rpartition(".")
        state.setdefault(name, {})[key] = tensor
    groups = get_optimizer_state_dict(objective, optimizer, options=WHOLE)["param_groups"]
    set_optimizer_state_dict(objective, optimizer, {"state": {**state}, "param_groups": groups}, options=WHOLE)
