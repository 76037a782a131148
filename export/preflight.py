"""What an export will need, predicted from shapes before any work, and a refusal when it cannot fit."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import nn

from himix_edge.checkpoints.assemble import meta_model
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.export.quantization.policy import Policy, role_bits
from himix_edge.parts import ROLES, is_table, part_of

BASE_MEMORY = 700 << 20  # interpreter, torch, exporter and runtime with no model
GRAPH_BYTES = 600_000  # graphs, rotary tables, tokenizer, manifest and self-test beside the weights


@dataclass(frozen=True)
class Forecast:
    """Bytes: weights of the bundle by role, the whole bundle, peak memory and free disk that the export needs."""

    weights: dict[str, int]
    bundle: int
    memory: int
    disk: int


def forecast(
    config: ModelConfig, policy: Policy, rounding: str = "nearest", disk: tuple[float, float] = (2.0, 2.0)
) -> Forecast:
    """Predict from the configuration alone; no weight is allocated.

    Args:
        config: the model's.
        policy: bits by role.
        rounding: as in quantization.rounding.
        disk: the target's, see `Target.disk`.
    """
    model = meta_model(config)
    weights = dict.fromkeys(ROLES.values(), 0)
    for name, module in model.named_modules():
        for part, tensor in module.named_parameters(recurse=False):
            bits = role_bits(name, policy) if _is_matrix(module) and part == "weight" else 32
            size = stored_bytes(tuple(tensor.shape), bits, policy.group_size)
            role = ROLES[part_of(name)]
            weights[role] += size
            if config.architecture == "vanilla" and not config.images and role == "decoder" and not is_table(name):
                weights["vision_injector"] += size  # the image passes through the decoder's layers
    bundle = sum(weights.values()) + GRAPH_BYTES
    matrices = [(tuple(m.weight.shape), role_bits(n, policy)) for n, m in model.named_modules() if _is_matrix(m)]
    # the reference: integers at a byte each, or floats; and what is made of the largest weight
    held = sum(math.prod(shape) * (1 if bits <= 8 else 4) for shape, bits in matrices)
    largest = max(math.prod(shape) for shape, _ in matrices)
    # and the bundle several times: packed, written, and opened by the runtime, which lays it out anew. Fitted to the
    # peaks of four exports of 0.9 to 3.7 billion parameters, with a margin of some percent
    memory = BASE_MEMORY + held + 2 * largest + 9 * bundle // 2
    if rounding != "nearest":  # the float model stands beside the quantized one; tuning keeps its weights in float too
        copies = 4 if rounding == "tuned" else 2
        memory = max(memory, BASE_MEMORY + held + copies * float_bytes(config))
    quantized = any(bits <= 8 for _, bits in matrices)
    return Forecast(weights, bundle, memory, math.ceil(disk[quantized] * bundle))


def float_bytes(config: ModelConfig) -> int:
    """Bytes of all parameters in float32."""
    return 4 * sum(parameter.numel() for parameter in meta_model(config).parameters())


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding)


def stored_bytes(shape: tuple[int, ...], bits: int, group_size: int) -> int:
    """Bytes of one tensor in a bundle, scales included."""
    count = math.prod(shape)
    if bits > 8:
        return 4 * count
    block = group_size if bits == 4 else next((b for b in (64, 32) if shape[1] % b == 0), 16)
    return count * bits // 8 + 2 * (count // block)  # scales in float16


def refuse_if_too_large(need: Forecast, out: Path) -> None:
    """Raises InputError if the machine's free memory or the disk that holds `out` is too small."""
    memory = psutil.virtual_memory().available
    if need.memory > memory:
        raise InputError(
            f"this export needs about {need.memory >> 20} MiB of memory and {memory >> 20} MiB are free; "
            "close other programs or use a larger machine"
        )
    place = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
    disk = shutil.disk_usage(place).free
    if need.disk > disk:
        raise InputError(f"{out}: this export needs about {need.disk >> 20} MiB of disk and {disk >> 20} MiB are free")
