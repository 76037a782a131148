"""The HiMix authors' released layout: TinyLLaVA-style, a language model, a vision tower and, if vanilla, a connector.

config.json keeps the parts' own configurations under `text_config` and `vision_config` (or the part's folder has its
config.json). Weights are in one set of safetensors with the prefixes below, or in a folder for each part.
"""

from pathlib import Path
from typing import TypeGuard

from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, read_json

PARTS = {
    "language_model": ("language_model.",),
    "vision_tower": ("vision_tower._vision_tower.", "vision_tower."),
    "connector": ("connector._connector.", "connector."),
}
IMAGE_KEY = "model.layers.0.self_attn.k_proj_img.weight"


def is_official(raw: object) -> TypeGuard[JsonObject]:
    """Whether this config.json is one of TinyLLaVA's family."""
    return isinstance(raw, dict) and ("tinyllava" in str(raw.get("model_type")) or "llm_model_name_or_path" in raw)


def official_config(folder: Path, raw: JsonObject) -> ModelConfig:
    """The model's configuration. Raises InputError naming the part that is missing or not understood."""
    from himix_edge.checkpoints.tower_weights import tower_config_from

    text = _part_config(folder, raw, "language_model", "text_config")
    vision = _part_config(folder, raw, "vision_tower", "vision_config")
    layers = _layers(raw.get("vision_feature_layer", -2), str(folder / "config.json"))
    strategy = raw.get("vision_feature_select_strategy", "patch")
    if strategy not in ("patch", "cls_patch"):
        raise InputError(f"{folder / 'config.json'}: vision_feature_select_strategy {strategy!r:.40} is not supported")
    tower = tower_config_from(
        vision, str(folder / "config.json"), feature_layers=layers, drop_first_token=strategy == "patch"
    )
    language = _part_weights(folder, "language_model")
    architecture = "himix" if IMAGE_KEY in language else "vanilla"
    model = {**text, "architecture": architecture, "vision_hidden_size": tower.feature_size}
    config = ModelConfig.from_dict(model, str(folder / "config.json"))
    return ModelConfig(config.architecture, config.decoder, tower.feature_size, tower)


def official_weights(folder: Path, config: ModelConfig) -> Weights:
    """All parts under this project's names. Raises InputError for a missing part or misnamed tensors."""
    from himix_edge.checkpoints.tower_weights import tower_weights_from

    raw = read_json(folder / "config.json")
    vision = _part_config(folder, raw, "vision_tower", "vision_config")
    assert config.vision is not None
    tower = tower_weights_from(_part_weights(folder, "vision_tower"), vision, config.vision)
    weights = {**_part_weights(folder, "language_model"), **{f"vision_tower.{k}": v for k, v in tower.items()}}
    if config.architecture == "vanilla":
        weights |= {f"connector.{name}": tensor for name, tensor in _part_weights(folder, "connector").items()}
    return weights


def _layers(value: object, where: str) -> tuple[int, ...]:
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise InputError(f"{where}: vision_feature_layer {value!r:.40} is no layer's number")
    return tuple(layers)


def _part_config(folder: Path, raw: object, part: str, field: str) -> JsonObject:
    path = folder / part / "config.json"
    config = read_json(path) if path.is_file() else raw.get(field) if isinstance(raw, dict) else None
    if not isinstance(config, dict) or not config:
        raise InputError(f"{folder}: no {field} in config.json and no {part}/config.json")
    return config


def _part_weights(folder: Path, part: str) -> dict[str, LazyTensor]:
    if (folder / part).is_dir():
        tensors, where = dict(folder_weights(folder / part)), folder / part
    else:
        every, where = folder_weights(folder), folder
        tensors = {name: tensor for name, tensor in every.items() if name.startswith(f"{part}.")}
    prefix = next((p for p in PARTS[part] if any(name.startswith(p) for name in tensors)), "")
    stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not stripped:
        raise InputError(f"{where}: no tensors of the {part}")
    return stripped
