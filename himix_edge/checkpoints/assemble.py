"""From a configuration and lazily read weights to a model: names and shapes first, then one tensor at a time."""

import torch
from torch import nn

from himix_edge.checkpoints.lazy import Weights, as_weights, cast
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.model import VisionLanguageModel, build_model
from himix_edge.model.meta import meta_device


def assemble(config: ModelConfig, weights: Weights, where: str) -> VisionLanguageModel:
    """A model for inference on the CPU, in float32.

    Raises:
        InputError: missing, surplus or misshapen tensors (named, in `where`).
    """
    model = meta_model(config)
    check_names(weights, expected_shapes(model), where)
    state = {name: cast(weights[name].read(), torch.float32, f"{where}: {name}") for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return finish(model)


def meta_model(config: ModelConfig) -> VisionLanguageModel:
    """The model's structure without memory for its weights."""
    with meta_device():
        return build_model(config)


def finish(model: VisionLanguageModel) -> VisionLanguageModel:
    """Give a model whose parameters are loaded the buffers that come from its configuration."""
    if model.vision_tower is not None:
        model.vision_tower.reset_buffers()
    return model.eval().requires_grad_(False)


def expected_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_names(weights: Weights, expected: dict[str, tuple[int, ...]], where: str) -> None:
    """Raises InputError naming what is missing, surplus, or of a shape other than the config says."""
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(name for name in weights.keys() - expected.keys() if not _harmless(name, expected))
    if missing or surplus:
        words = [f"{kind} {_some(names)}" for kind, names in (("missing", missing), ("surplus", surplus)) if names]
        raise InputError(f"{where}: tensors do not fit config.json: {'; '.join(words)}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise InputError(f"{where}: {name} has shape {weights[name].shape}, config.json says {shape}")


def model_weights(model: VisionLanguageModel) -> Weights:
    """A model's own parameters, as weights."""
    return as_weights({name: tensor.detach() for name, tensor in model.state_dict().items()})


def _harmless(name: str, expected: dict[str, tuple[int, ...]]) -> bool:
    """A tied checkpoint may repeat its embedding as lm_head, an old one stores rotary tables: nothing is lost."""
    return (name == "lm_head.weight" and name not in expected) or name.endswith("rotary_emb.inv_freq")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
