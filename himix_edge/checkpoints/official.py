"""The HiMix authors' layout, see `tinyllava_parts`: a language model with injection weights, and a tower."""

from pathlib import Path
from typing import TypeGuard

from himix_edge.checkpoints.lazy import Weights
from himix_edge.checkpoints.tinyllava_parts import drops_first_token, is_tinyllava, part_config, part_weights
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject

IMAGE_KEY = "model.layers.0.self_attn.k_proj_img.weight"


def is_official(raw: object, folder: Path) -> TypeGuard[JsonObject]:
    """Whether this config.json is one of TinyLLaVA's family, and its language model one of HiMix.

    Raises:
        InputError: it is, and there is no language model.
    """
    return is_tinyllava(raw) and IMAGE_KEY in part_weights(folder, "language_model")


def official_config(folder: Path, raw: JsonObject) -> ModelConfig:
    """The model's configuration. Raises InputError naming the part that is missing or not understood."""
    from himix_edge.checkpoints.tower_weights import tower_config_from

    text, where = part_config(folder, raw, "language_model")
    vision, there = part_config(folder, raw, "vision_tower")
    whole = str(folder / "config.json")
    layers = _layers(raw.get("vision_feature_layer", -2), whole)
    tower = tower_config_from(vision, there, feature_layers=layers, drop_first_token=drops_first_token(raw, whole))
    config = ModelConfig.from_dict({**text, "vision_hidden_size": tower.feature_size}, where)
    return ModelConfig("himix", config.decoder, tower.feature_size, tower)


def official_weights(folder: Path, raw: JsonObject, config: ModelConfig) -> Weights:
    """All parts under this project's names. Raises InputError for a missing part or misnamed tensors."""
    from himix_edge.checkpoints.tower_weights import tower_weights_from

    vision, _ = part_config(folder, raw, "vision_tower")
    assert config.vision is not None
    tower = tower_weights_from(part_weights(folder, "vision_tower"), vision, config.vision, str(folder))
    return {**part_weights(folder, "language_model"), **{f"vision_tower.{name}": t for name, t in tower.items()}}


def _layers(value: object, where: str) -> tuple[int, ...]:
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise InputError(f"{where}: vision_feature_layer {value!r:.40} is no layer's number")
    return tuple(layers)
