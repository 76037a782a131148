"""Quantize once: integers and scales in PyTorch, from which every target packs the same numbers.

int4: symmetric, -8..7, a scale per group along the input dimension. int8: symmetric, -127..127, a scale per output
channel. Scales are bf16-representable and inside fp16's normal range, so every runtime's scale type holds them
exactly. The model with the dequantized weights is the reference for every runtime.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.checkpoints.assemble import finish, meta_model
from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.checkpoints.source import Source
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.export.quantization.policy import Policy, check_overrides, role_bits
from himix_edge.export.quantization.smoothing import moved
from himix_edge.model import VisionLanguageModel
from himix_edge.parts import part_of

MIN_SCALE = 2.0**-13  # its 8 significant bits and the products with integers stay normal in fp16
MAX_SCALE = 65504.0  # float16's largest number: some formats store them so
ROUNDING = 0.5 + 2**-8  # steps by which plain rounding may be off: half a step, and the scale's own bf16 rounding


@dataclass(frozen=True)
class QuantizedTensor:
    """values int8 (rows, columns); scale float32 (rows, columns / group); weight = values * scale of their group."""

    values: Tensor
    scale: Tensor
    bits: int

    @property
    def group_size(self) -> int:
        return self.values.shape[1] // self.scale.shape[1]

    def dequantize(self) -> Tensor:
        """float32 (rows, columns), exactly what every target's weights mean."""
        return self.values.float().unflatten(1, (-1, self.group_size)).mul_(self.scale[..., None]).flatten(1)

    def split(self) -> Iterator["QuantizedTensor"]:
        """Some rows at a time, few enough that a processor's cache holds what is computed of them."""
        count = rows_at_a_time(self.values.shape[1])
        for values, scale in zip(self.values.split(count), self.scale.split(count), strict=True):
            yield QuantizedTensor(values, scale, self.bits)


class QuantizedModule(nn.Module):
    """Holds the integers; `weight` is dequantized anew at each use, so that a large model is never held in float."""

    values: Tensor
    scale: Tensor
    name: str = ""  # of the parameter in the checkpoint; targets store it under this name

    def __init__(self, quantized: QuantizedTensor):
        super().__init__()
        self.bits = quantized.bits
        self.register_buffer("values", quantized.values)
        self.register_buffer("scale", quantized.scale)

    @property
    def quantized(self) -> QuantizedTensor:
        return QuantizedTensor(self.values, self.scale, self.bits)

    @property
    def weight(self) -> Tensor:
        """float32 (rows, columns)."""
        return self.quantized.dequantize()


class QuantizedLinear(QuantizedModule):
    """A linear layer on dequantized weights."""

    bias: Tensor | None

    def __init__(self, quantized: QuantizedTensor, bias: Tensor | None):
        super().__init__(quantized)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class QuantizedEmbedding(QuantizedModule):
    """A token embedding on dequantized weights."""

    def forward(self, ids: Tensor) -> Tensor:
        rows = QuantizedTensor(self.values[ids.flatten()], self.scale[ids.flatten()], self.bits)
        return rows.dequantize().unflatten(0, ids.shape)

    def project(self, states: Tensor) -> Tensor:
        """See `TokenEmbedding`."""
        return torch.cat([F.linear(states, rows.dequantize()) for rows in self.quantized.split()], dim=-1)


@dataclass(frozen=True)
class QuantizedModel:
    """The reference (a model on dequantized weights), the integers by parameter name, and how far each is off.

    `deviation` was measured while the weight was at hand.
    """

    reference: VisionLanguageModel
    tensors: dict[str, QuantizedTensor]
    deviation: dict[str, "Deviation"]
    moved: dict[str, Tensor] = field(default_factory=dict)  # see `smoothing.moved`

    @cached_property
    def digests(self) -> dict[str, str]:
        """`digest` of every tensor."""
        return {name: digest(tensor) for name, tensor in self.tensors.items()}


@dataclass(frozen=True)
class Deviation:
    """|weight - dequantized| in steps of the scale, largest or root mean square, and how much of it is right.

    Plain rounding is off by half a step (4 bit: up to one, as -8..7 is lopsided); calibrated rounding puts single
    weights further off on purpose, but not many.
    """

    metric: str
    steps: float
    limit: float


def quantize_tensor(weight: Tensor, bits: int, group_size: int) -> QuantizedTensor:
    """Round to nearest, some rows at a time.

    Args:
        weight: (rows, columns) float.
        bits: 4 or 8.
        group_size: columns that share a scale; 0: all of a row.

    Raises:
        ValueError: columns is not a multiple of group_size, or a weight is not finite.
    """
    parts = [_round_rows(rows, bits, group_size) for rows in weight.split(rows_at_a_time(weight.shape[1]))]
    return QuantizedTensor(torch.cat([values for values, _ in parts]), torch.cat([scale for _, scale in parts]), bits)


def _round_rows(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    groups = weight.float().unflatten(1, (-1, group_size or weight.shape[1]))
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    largest = groups.abs().amax(dim=2)
    if not torch.isfinite(largest).all():
        raise ValueError("a weight is not finite")
    scale = representable_scale(largest / high)
    values = (groups / scale[..., None]).round_().clamp_(low, high)
    return values.flatten(1).to(torch.int8), scale


def rows_at_a_time(columns: int) -> int:
    """Rows of a matrix that make up some 8 MB of float32: what is worked on at once."""
    return max(1, (1 << 21) // columns)


def quantize(source: Source, policy: Policy, calibrated: Mapping[str, QuantizedTensor] | None = None) -> QuantizedModel:
    """Quantize every Linear and embedding as `policy` says; norms, biases, convolutions and positions stay float.

    Weights are rounded to nearest, except for those in `calibrated` (see quantization.calibration).

    Reads one tensor at a time: at no moment is more of the model in memory than its integers and one float weight.

    Raises:
        InputError: a 4-bit weight's input dimension is not a multiple of the group size, a weight is not finite or
            too large for a scale in float16, or the source is damaged.
    """
    check_policy(source.config, policy)
    factors, source = moved(source.weights), check_finite(source)
    model = meta_model(source.config)
    tensors: dict[str, QuantizedTensor] = {}
    deviations: dict[str, Deviation] = {}
    calibrated = calibrated or {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | nn.Embedding) or role_bits(name, policy) > 8:
            continue
        weight_name, bits = f"{name}.weight", role_bits(name, policy)
        weight = source.weights[weight_name].read()
        given = calibrated.get(weight_name)
        quantized = given or quantize_tensor(weight, bits, policy.group_size if bits == 4 else 0)
        if float(quantized.scale.max()) > MAX_SCALE:
            most = float(weight.abs().max())
            raise InputError(f"{source.where}: {weight_name}: {most:.4g} is too large for a scale in float16")
        tensors[weight_name], deviations[weight_name] = quantized, deviation(weight, quantized, given is not None)
        del weight
        if isinstance(module, nn.Embedding):
            replacement: QuantizedModule = QuantizedEmbedding(quantized)
        else:
            bias = None if module.bias is None else source.weights[f"{name}.bias"].read().float()
            replacement = QuantizedLinear(quantized, bias)
        replacement.name = weight_name
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, replacement)
    rest = {name: source.weights[name].read().float() for name, p in model.named_parameters() if p.is_meta}
    model.load_state_dict(rest, assign=True, strict=False)
    return QuantizedModel(finish(model), tensors, deviations, factors)


def check_finite(source: Source) -> Source:
    """The source with weights that raise InputError, when they are read, for a NaN or infinite value: by name."""

    def read(name: str, given: LazyTensor) -> Tensor:
        weight = given.read()
        if weight.numel() and not all(bool(torch.isfinite(end)) for end in weight.aminmax()):
            raise InputError(f"{source.where}: {name}: a value is NaN or infinite; the checkpoint is damaged")
        return weight

    weights = {name: LazyTensor(given.shape, partial(read, name, given)) for name, given in source.weights.items()}
    return replace(source, weights=weights)


def check_policy(config: ModelConfig, policy: Policy) -> None:
    """Raises InputError naming a 4-bit weight whose input dimension is not a multiple of the group size, or an override
    of the policy that fits no weight."""
    modules = {
        name: module for name, module in meta_model(config).named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }  # fmt: skip
    check_overrides(modules, policy)
    for name, module in modules.items():
        columns = module.weight.shape[1]
        if role_bits(name, policy) == 4 and columns % policy.group_size:
            raise InputError(
                f"{name}: {columns} input channels are not a multiple of group size {policy.group_size}; "
                "choose a smaller group or int8"
            )


def deviation(weight: Tensor, quantized: QuantizedTensor, calibrated: bool) -> Deviation:
    """How far a quantized weight is from the one it stands for."""
    worst = torch.zeros(())
    squares = 0.0
    for rows, part in zip(weight.split(rows_at_a_time(weight.shape[1])), quantized.split(), strict=True):
        off = (rows.float() - part.dequantize()).unflatten(1, (-1, part.group_size)) / part.scale[..., None]
        worst = torch.maximum(worst, off.abs().max())  # keeps a NaN, which `max` loses
        squares += float(off.square().sum())
    if calibrated:
        return Deviation("rms rounding steps", (squares / weight.numel()) ** 0.5, 1.0)
    return Deviation("max rounding steps", float(worst), 1.0 if quantized.bits == 4 else ROUNDING)


def digest(tensor: QuantizedTensor) -> str:
    """SHA-256 of integers and scales, the same however a format stores them.

    A scale that a format repeats along a row counts once.
    """
    scale = tensor.scale.contiguous()
    if bool((scale == scale[:, :1]).all()):
        scale = scale[:, :1].contiguous()
    made = hashlib.sha256(repr((tuple(tensor.values.shape), tuple(scale.shape))).encode())
    made.update(tensor.values.contiguous().numpy().data)
    made.update(scale.float().numpy().data)
    return made.hexdigest()


def digests_of(stored: Iterable[tuple[str, QuantizedTensor]], expected: Mapping[str, str]) -> dict[str, str]:
    """Name -> digest of the tensors that were read out of a file, see `Target.read_weights`.

    A format that knows a tensor by its content gives equal ones a single name (an injection that mixes holds copies of
    the decoder's layers): what is stored under it counts for all that `expected`, digests by name, has as equal.
    """
    found = {name: digest(tensor) for name, tensor in stored}
    there = set(found.values())
    return {name: made for name, made in expected.items() if made in there} | found


def names_by_digest(digests: Mapping[str, str]) -> dict[str, str]:
    """Digest -> the name of its tensor, of equal ones the decoder's."""
    ordered = sorted(digests.items(), key=lambda one: part_of(one[0]) == "decoder")
    return {made: name for name, made in ordered}


def representable_scale(scale: Tensor) -> Tensor:
    """The nearest bf16 values, at least MIN_SCALE."""
    return scale.clamp_min(MIN_SCALE).to(torch.bfloat16).float()
