"""One process or several: which device, and how they share a model."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from himix_edge import extras
from himix_edge.model.decoder import MLP


class Processes(Protocol):
    """What is used of `accelerate.Accelerator`, which has no types of its own."""

    device: torch.device
    num_processes: int
    process_index: int
    is_main_process: bool

    def wait_for_everyone(self) -> None: ...
    def main_process_first(self) -> AbstractContextManager[None]: ...
    def prepare(self, model: nn.Module) -> nn.Module: ...
    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]: ...
    def reduce(self, tensor: Tensor, reduction: str) -> Tensor: ...
    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor | None: ...


def accelerator() -> Processes:
    """Hugging Face Accelerate's view of this process and the others. Raises BackendMissing without the package."""
    with extras.needed("accelerate", extras.TRAIN):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    # a micro-batch without images, or a stage whose data has none, leaves the injection out
    processes: Processes = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    return processes


def wrap(objective: nn.Module, accelerator: Processes, fsdp: bool) -> nn.Module:
    """The objective as several processes train it: a copy in each (DDP), or with `fsdp` a piece of each weight (FSDP2).

    FSDP2 puts parameters of its own in the objective's place, so collect those of an optimiser behind this.
    """
    if not fsdp:
        return accelerator.prepare(objective)
    if not isinstance(objective, FSDPModule):
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for module in list(objective.modules()):
            if isinstance(module, MLP):  # attention cannot be one: injection uses its projections by themselves
                fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    return objective


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16; torch emulates those that it lacks, slowly."""
    if device.type == "cpu":
        has: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.9
        return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def device_name(device: torch.device) -> str:
    """For the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
