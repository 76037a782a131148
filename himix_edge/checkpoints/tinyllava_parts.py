"""TinyLLaVA Factory's folders, and HiMix's, which are made with it: a language model, a vision tower, a connector.

config.json keeps the parts' own configurations under `text_config` and `vision_config` (or the part's folder has its
config.json). Weights are in one set of safetensors with the prefixes below, or in a folder for each part.
"""

from pathlib import Path
from typing import TypeGuard

from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, read_json

PREFIXES = {
    "language_model": ("language_model.",),
    "vision_tower": ("vision_tower._vision_tower.", "vision_tower.", "_vision_tower."),
    "connector": ("connector._connector.", "connector.", "_connector."),
}
CONFIGS = {"language_model": "text_config", "vision_tower": "vision_config"}


def is_tinyllava(raw: object) -> TypeGuard[JsonObject]:
    """Whether this config.json is one of TinyLLaVA's family."""
    return isinstance(raw, dict) and ("tinyllava" in str(raw.get("model_type")) or "llm_model_name_or_path" in raw)


def part_config(folder: Path, raw: JsonObject, part: str) -> tuple[JsonObject, str]:
    """The configuration of "language_model" or "vision_tower", and where it is, for messages.

    Raises:
        InputError: there is none.
    """
    path, field = folder / part / "config.json", CONFIGS[part]
    apart = path.is_file()
    config = read_json(path) if apart else raw.get(field)
    if not isinstance(config, dict) or not config:
        raise InputError(f"{folder}: no {field} in config.json and no {part}/config.json")
    return config, str(path) if apart else f"{folder / 'config.json'}: {field}"


def part_weights(folder: Path, part: str) -> dict[str, LazyTensor]:
    """The tensors of a part, without its prefix. Raises InputError if there are none."""
    own = folder / part
    if own.is_dir() and any(path.suffix != ".json" for path in own.iterdir()):  # not its settings alone
        tensors, where = dict(folder_weights(own)), own
    else:
        every, where = folder_weights(folder), folder
        tensors = {name: tensor for name, tensor in every.items() if name.startswith(f"{part}.")}
    prefix = next((p for p in PREFIXES[part] if any(name.startswith(p) for name in tensors)), "")
    stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not stripped:
        raise InputError(f"{where}: no tensors of the {part}")
    return stripped


def drops_first_token(raw: JsonObject, where: str) -> bool:
    """Whether the tower's first feature is left out, as their code does of every tower, with a class token or not."""
    strategy = raw.get("vision_feature_select_strategy", "patch")
    if strategy not in ("patch", "cls_patch"):
        raise InputError(f"{where}: vision_feature_select_strategy {strategy!r:.40} is not supported")
    return strategy == "patch"
