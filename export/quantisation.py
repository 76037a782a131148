"""Quantise once: integers and scales in PyTorch, from which every target packs the same numbers.

int4: symmetric, -8..7, a scale per group along the input dimension. int8: symmetric, -127..127, a scale per output
channel. Scales are bf16-representable and inside fp16's normal range, so every runtime's scale type holds them
exactly. The model with the dequantised weights is the reference for every runtime.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from himix_edge.errors import InputError
from himix_edge.model import VisionLanguageModel

Precision = Literal["none", "int8", "int4"]
MIN_SCALE = 2.0**-13  # its 8 significant bits and the products with integers stay normal in fp16
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Policy:
    """Bits per role (16 or more: float) and the group size of 4-bit weights."""

    vision_encoder: int
    vision_injector: int
    decoder: int
    embedding: int
    group_size: int = 32

    def bits(self) -> dict[str, int]:
        """Role -> bits, as the manifest records it (32: float)."""
        return {
            "vision_encoder": self.vision_encoder,
            "vision_injector": self.vision_injector,
            "decoder": self.decoder,
            "embedding": self.embedding,
        }


POLICIES: dict[str, Policy] = {
    "none": Policy(32, 32, 32, 32),
    "int8": Policy(8, 8, 8, 8),
    "int4": Policy(8, 8, 4, 4),
}


@dataclass(frozen=True)
class QuantizedTensor:
    """values int8 (rows, columns); scale float32 (rows, columns / group); weight = values * scale of their group."""

    values: Tensor
    scale: Tensor
    bits: int

    @property
    def group_size(self) -> int:
        return self.values.shape[1] // self.scale.shape[1]

    def dequantise(self) -> Tensor:
        """float32 (rows, columns), exactly what every target's weights mean."""
        return (self.values.float().unflatten(1, (-1, self.group_size)) * self.scale[..., None]).flatten(1)


@dataclass(frozen=True)
class QuantizedModel:
    """The reference (dequantised weights in a float model) and the integers it came from, by parameter name."""

    reference: VisionLanguageModel
    tensors: dict[str, QuantizedTensor]


def quantise_tensor(weight: Tensor, bits: int, group_size: int) -> QuantizedTensor:
    """Round to nearest.

    Args:
        weight: (rows, columns) float.
        bits: 4 or 8.
        group_size: columns that share a scale; 0: all of a row.

    Raises:
        ValueError: columns is not a multiple of group_size, or a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    groups = weight.float().unflatten(1, (-1, group_size or weight.shape[1]))
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    scale = _representable(groups.abs().amax(dim=2) / high)
    values = (groups / scale[..., None]).round().clamp(low, high)
    return QuantizedTensor(values.flatten(1).to(torch.int8), scale, bits)


def quantise(model: VisionLanguageModel, policy: Policy) -> QuantizedModel:
    """Quantise every Linear and embedding as `policy` says; norms, biases and positions stay float.

    Raises:
        InputError: a 4-bit weight's input dimension is not a multiple of the group size, or a weight is not finite.
    """
    reference = copy.deepcopy(model)
    tensors: dict[str, QuantizedTensor] = {}
    for name, module in reference.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        bits = role_bits(name, policy)
        if bits > 8:
            continue
        columns = module.weight.shape[1]
        if bits == 4 and columns % policy.group_size:
            raise InputError(
                f"{name}: {columns} input channels are not a multiple of group size {policy.group_size}; "
                "choose a smaller group or int8"
            )
        try:
            quantised = quantise_tensor(module.weight.detach(), bits, policy.group_size if bits == 4 else 0)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
        tensors[f"{name}.weight"] = quantised
        module.weight = nn.Parameter(quantised.dequantise(), requires_grad=False)
    return QuantizedModel(reference, tensors)


def role_bits(module_name: str, policy: Policy) -> int:
    """The bits that `policy` gives to the module of this name."""
    if module_name.startswith("vision_tower"):
        return policy.vision_encoder
    if module_name.endswith("_proj_img") or module_name.startswith("connector"):
        return policy.vision_injector
    if module_name in ("model.embed_tokens", "lm_head"):
        return policy.embedding
    return policy.decoder


def _representable(scale: Tensor) -> Tensor:
    """The nearest bf16 values, at least MIN_SCALE."""
    return scale.clamp_min(MIN_SCALE).to(torch.bfloat16).float()
