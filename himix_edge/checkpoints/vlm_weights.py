"""The weights of vision-language models in Hugging Face folders, under this project's names; see `vlm_config`."""

from pathlib import Path

from himix_edge.checkpoints.lazy import Weights
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tower_weights import tower_weights_from
from himix_edge.checkpoints.vlm_config import family_of_vlm
from himix_edge.config import ModelConfig
from himix_edge.parts import HEAD, TOWER

NEWLINES = ("model.image_newline", "image_newline")
HEADS = ("lm_head.", "language_model.lm_head.")


def vlm_weights(folder: Path, raw: dict[str, object], config: ModelConfig) -> Weights:
    """The weights of a folder with `raw` as config.json's content.

    Raises:
        InputError: missing, surplus or misshapen tensors of the tower, named. Others keep their names and are found by
            `check_names`.
    """
    where = str(folder)
    family = family_of_vlm(raw, where)
    decoder, tower, connector = family.prefixes
    weights, towers = {}, {}
    for name, tensor in folder_weights(folder).items():
        if (rest := _behind(name, tower)) is not None:
            towers[rest] = tensor
        elif (rest := _behind(name, connector)) is not None:
            module, _, part = rest.rpartition(".")
            weights[f"connector.{family.connector.get(module, module)}.{part}"] = tensor
        elif family.newline and name in NEWLINES:
            weights["connector.3.token"] = tensor
        elif (rest := _behind(name, HEADS)) is not None:
            weights[f"{HEAD}.{rest}"] = tensor
        elif (rest := _behind(name, decoder)) is not None:
            weights[f"model.{rest}"] = tensor
        else:
            weights[name] = tensor
    inner = raw["vision_config"]
    vision = {"model_type": family.tower, **(inner if isinstance(inner, dict) else {})}
    assert config.vision is not None
    found = tower_weights_from(towers, vision, config.vision, where)
    return weights | {f"{TOWER}.{name}": tensor for name, tensor in found.items()}


def _behind(name: str, prefixes: tuple[str, ...]) -> str | None:
    """What stands behind one of the prefixes; None without any."""
    for prefix in prefixes:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return None
