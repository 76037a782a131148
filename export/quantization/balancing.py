"""Balancing: groups of a linear's input are brought to fitting sizes, which costs its 4-bit weights nothing.

The channels that share a scale of the weight are divided by a power of two and the scale is multiplied by it; the
division is folded into the norm that makes the input. No integer changes and the model computes the same. What gains
is an activation rounded to int8 with one scale for all of its groups, as XNNPACK does it: its step is set by the
loudest group, and each group's error counts by the weights it meets.

It serves a norm's users alone: a tied head's weight is looked up as well, and `down_proj` has scales for its pieces.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from himix_edge.checkpoints.lazy import Weights
from himix_edge.export.quantization.smoothing import FOLDS, SMALLEST, fold_of, scaled, watch_inputs
from himix_edge.export.quantization.tensors import MIN_SCALE, QuantizedTensor
from himix_edge.model import VisionLanguageModel

EVERY = 4  # of the tokens, the first is looked at
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of evening out, to start from
GAIN = 0.999  # a step that leaves more of the error than this is not taken


def group_ranges(model: VisionLanguageModel, texts: Tensor, group_size: int) -> dict[str, Tensor]:
    """Module name -> smallest and largest value (2, tokens, groups) of its input, of linears that follow a norm.

    Texts are int64 (passages, T).
    """
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, x: Tensor) -> None:
        groups = x[:, ::EVERY].flatten(0, 1).unflatten(1, (-1, group_size))
        found.setdefault(name, []).append(torch.stack([groups.amin(dim=2), groups.amax(dim=2)]))

    watch_inputs(model, texts, tuple(linear for linear, (maker, _) in FOLDS.items() if maker.endswith("norm")), keep)
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}


def balance(
    weights: Weights, tensors: Mapping[str, QuantizedTensor], ranges: Mapping[str, Tensor]
) -> tuple[Weights, dict[str, QuantizedTensor]]:
    """The same model with balanced inputs, in float and quantized.

    Args:
        weights: every parameter of the model.
        tensors: 4-bit weights by parameter name; inputs of others stay as they are.
        ranges: what `group_ranges` gave.
    """
    moved, balanced = dict(weights), dict(tensors)
    for name, found in ranges.items():
        layer, maker, linears = fold_of(name)
        norm, users = f"{layer}{maker}.weight", [f"{layer}{linear}.weight" for linear in linears]
        if not all(user in tensors for user in users):
            continue
        power = powers(found, [tensors[user] for user in users])
        columns = power.repeat_interleave(tensors[users[0]].group_size)
        moved[norm] = scaled(weights[norm], 1 / columns)
        for user in users:
            moved[user] = scaled(weights[user], columns)
            balanced[user] = replace(tensors[user], scale=tensors[user].scale * power)
    return moved, balanced


def powers(ranges: Tensor, users: list[QuantizedTensor]) -> Tensor:
    """What each group (groups,) of an input is divided by: the powers of two with the smallest error found.

    A factor common to all groups leaves that error as it is: they are as small as the scales of `users` allow, which
    don't fall below MIN_SCALE, and at most 1 unless those scales need more.
    """
    groups = ranges.shape[2]
    energy = torch.stack([u.dequantize().square().sum(dim=0).unflatten(0, (groups, -1)).sum(dim=1) for u in users])
    lowest = (MIN_SCALE / torch.cat([user.scale for user in users]).amin(dim=0)).log2().ceil()

    def error(exponent: Tensor) -> float:
        return rounding_error(ranges, energy.sum(dim=0), exponent)

    loudness = ranges.abs().amax(dim=(0, 1)).clamp_min(SMALLEST).log2()
    loudness -= loudness.mean()
    exponent = min(((share * loudness).round().maximum(lowest) for share in SHARES), key=error)
    least, better = error(exponent), True
    while better:
        better = False
        for change in torch.cat([torch.eye(groups), -torch.eye(groups)]):
            tried = (exponent + change).maximum(lowest)
            if (left := error(tried)) < GAIN * least:
                exponent, least, better = tried, left, True
    exponent -= min(exponent.amax(), (exponent - lowest).amin())  # larger inputs stay clear of float16's subnormals
    return torch.ldexp(torch.ones(groups), exponent.int())


def rounding_error(ranges: Tensor, energy: Tensor, exponent: Tensor) -> float:
    """Mean square error of what linears put out, but for a factor, with groups of their input divided by 2^exponent.

    Args:
        ranges: (2, tokens, groups) of the input.
        energy: (groups,) sum of the squared weights that a group meets.
        exponent: (groups,)
    """
    low, high = ranges / torch.exp2(exponent)
    step = high.amax(dim=1).clamp_min(0) - low.amin(dim=1).clamp_max(0)
    return float(step.square().mean() * (energy * torch.exp2(2 * exponent)).sum())
