"""Smoothing: outlier channels move from activations into weights before anything is quantized.

A linear's input channel j is divided by s_j and its weight's column multiplied by it; the division is folded into what
makes the input: a norm's weight, or the rows of `up_proj` in front of `down_proj`. In float the model computes the
same. s_j = (largest input)^a / (largest weight)^(1-a) (SmoothQuant, Xiao et al., arXiv 2211.10438).

It serves 8-bit weights, with a scale for each row. Groups of 4-bit weights lose more by it than the activations gain.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.model import VisionLanguageModel

STRENGTH = 0.5  # a
BATCH = 8  # passages at once
SMALLEST = 1e-5
# the linear whose input is smoothed -> what makes that input, and every linear that takes it
FOLDS = {
    "self_attn.q_proj": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "mlp.gate_proj": ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.down_proj": ("mlp.up_proj", ("mlp.down_proj",)),
}


@torch.inference_mode()
def watch_inputs(
    model: VisionLanguageModel, texts: Tensor, linears: tuple[str, ...], seen: Callable[[str, Tensor], None]
) -> None:
    """Run texts, int64 (passages, T), and hand on every input (B, T, columns) of the linears whose names end so."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, inputs: seen(name, inputs[0])

    modules = [(name, module) for name, module in model.model.named_modules() if name.endswith(linears)]
    hooks = [module.register_forward_pre_hook(hook(f"model.{name}")) for name, module in modules]
    for ids in texts.split(BATCH):
        model.hidden(ids)
    for handle in hooks:
        handle.remove()


def largest_inputs(model: VisionLanguageModel, texts: Tensor) -> dict[str, Tensor]:
    """Module name -> largest magnitude (columns,) of each input channel over texts, int64 (passages, T)."""
    found: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        largest = x.abs().flatten(0, -2).amax(dim=0)
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    watch_inputs(model, texts, tuple(FOLDS), keep)
    return found


def smooth(weights: Weights, largest: dict[str, Tensor]) -> Weights:
    """The same model with smoothed inputs; each tensor is still read when it is asked for.

    Args:
        weights: every parameter of the model.
        largest: what `largest_inputs` gave.
    """
    smoothed = dict(weights)
    for name, magnitude in largest.items():
        layer, maker, users = fold_of(name)
        matrices = [f"{layer}{user}.weight" for user in users]
        columns = torch.stack([weights[matrix].read().float().abs().amax(dim=0) for matrix in matrices]).amax(dim=0)
        scale = magnitude.clamp_min(SMALLEST) ** STRENGTH / columns.clamp_min(SMALLEST) ** (1 - STRENGTH)
        scale = scale / scale.log().mean().exp()  # around 1, so that nothing grows as a whole
        for matrix in matrices:
            smoothed[matrix] = scaled(smoothed[matrix], scale)
        made = smoothed[f"{layer}{maker}.weight"]
        smoothed[f"{layer}{maker}.weight"] = scaled(made, 1 / scale if len(made.shape) == 1 else 1 / scale[:, None])
    return smoothed


def fold_of(name: str) -> tuple[str, str, tuple[str, ...]]:
    """Of a linear that `largest_inputs` names: its layer, what makes its input, and every linear that takes it."""
    linear = next(linear for linear in FOLDS if name.endswith(linear))
    return name.removesuffix(linear), *FOLDS[linear]


@dataclass(frozen=True)
class ScaledTensor(LazyTensor):
    """A tensor in float, multiplied by `factor` when it is read."""

    given: LazyTensor
    factor: Tensor


def scaled(tensor: LazyTensor, factor: Tensor) -> LazyTensor:
    """A tensor in float, multiplied by `factor` when it is read."""
    return ScaledTensor(tensor.shape, lambda: tensor.read().float() * factor, tensor, factor)


def moved(weights: Weights) -> dict[str, Tensor]:
    """By what `scaled` multiplied linears: LINEAR.input (columns,) and LINEAR.output (rows,); what is left out is 1.

    Whatever is added to such a linear, as an adapter is, has to be multiplied too.
    """
    found: dict[str, Tensor] = {}
    for name, stored in weights.items():
        tensor = stored
        while isinstance(tensor, ScaledTensor):
            if len(tensor.shape) == 2:
                kind = "output" if tensor.factor.dim() == 2 else "input"
                place = f"{name.removesuffix('.weight')}.{kind}"
                found[place] = found.get(place, torch.ones(())) * tensor.factor.flatten().float()
            tensor = tensor.given
    return found
