"""Low-rank adapters of the decoder's linears (Hu et al., arXiv 2106.09685), by the peft package."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from himix_edge import extras
from himix_edge.errors import InputError
from himix_edge.model import VisionLanguageModel

LINEARS = r"model\.layers\.({})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def add_adapters(model: VisionLanguageModel, rank: int, alpha: int, first_layer: int = 0) -> None:
    """Give every linear of the decoder's layers from `first_layer` on an adapter of this rank, scaled by alpha / rank;
    its output is zero until it learns. Raises BackendMissing without peft."""
    with extras.needed("peft", extras.TRAIN):
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    linears = LINEARS.format("|".join(map(str, range(first_layer, len(model.model.layers)))))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=linears, lora_dropout=0.0), model)
    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.cast_input_dtype_enabled = False  # autocast would at once undo the cast to float32


def use_adapters(model: VisionLanguageModel, used: bool) -> None:
    """Let the adapters take part, or leave them out, which saves their time while they are still zero."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(used)


def set_adapters(model: VisionLanguageModel, tensors: Mapping[str, Tensor], where: str) -> None:
    """Let fresh adapters go on from `tensors`, named LINEAR.lora_A (r, in) and LINEAR.lora_B (out, r).

    Raises:
        InputError: they are of other linears or another rank than the model's; `where` they come from.
    """
    fresh = {plain_name(name): parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: one.shape for name, one in fresh.items()}:
        rank = min(min(tensor.shape) for tensor in tensors.values())
        layers = [int(name.split(".")[2]) for name in tensors]
        raise InputError(
            f"{where}: its adapters have rank {rank}, from layer {min(layers)} on; go on with --set lora_rank={rank} "
            f"--set lora_first_layer={min(layers)}, or fold them into the weights: himix convert {where} --out FOLDER"
        )
    with torch.no_grad():
        for name, parameter in fresh.items():
            parameter.copy_(tensors[name])


@contextlib.contextmanager
def without_adapters(model: VisionLanguageModel) -> Iterator[None]:
    """The model as it was before its adapters learned; they take part again behind the block."""
    use_adapters(model, False)
    try:
        yield
    finally:
        use_adapters(model, True)


def plain_name(parameter: str) -> str:
    """A parameter's name without what peft adds to it: the linear's own, or LINEAR.lora_A, LINEAR.lora_B."""
    name = parameter.replace(".base_layer.", ".")
    return name.replace(".lora_A.default.weight", ".lora_A").replace(".lora_B.default.weight", ".lora_B")
