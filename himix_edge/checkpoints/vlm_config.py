"""Vision-language models in Hugging Face folders: SmolVLM and Idefics3, LLaVA, InternVL. Their configurations."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from himix_edge.checkpoints.tower_config import TowerOptions, tower_config_from
from himix_edge.config import ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, read_json, refuse_absurd, validated
from himix_edge.tower_presets import CLIP_MEAN

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# transformers' defaults, for what a text_config leaves out
DECODERS: dict[str, JsonObject] = {
    "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
                "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
              "max_position_embeddings": 32768},
    "qwen3": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6,
              "max_position_embeddings": 32768},
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What differs between the families' folders.

    Attributes:
        decoder: the `model_type` of the decoder where text_config names none.
        tower: of the tower, likewise.
        prefixes: what stands in front of the decoder's, the tower's and the connector's tensors, in the forms of
            transformers' versions.
        connector: a connector's module in the folder, by ours; the numbers are places in `build_connector`.
    """

    decoder: str
    tower: str
    prefixes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    connector: dict[str, str]


_NESTED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
_IDEFICS3 = (("model.text_model.",), ("model.vision_model.",), ("model.connector.",))
FAMILIES = {
    "idefics3": Family("llama", "idefics3_vision", _IDEFICS3, {"modality_projection.proj": "1"}),
    "smolvlm": Family("llama", "smolvlm_vision", _IDEFICS3, {"modality_projection.proj": "1"}),
    "llava": Family("llama", "clip_vision_model", _NESTED, {"linear_1": "0", "linear_2": "2"}),
    "internvl": Family("qwen2", "internvl_vision", _NESTED, {"layer_norm": "1", "linear_1": "2", "linear_2": "4"}),
}
OTHER_LAYOUTS = ("internvl_chat", "llava_qwen2", "nanoVLM")  # those of `families` that have files of their own


def is_vlm(raw: object) -> TypeGuard[dict[str, object]]:
    """Whether a config.json is that of a vision-language model, of a known family or not."""
    return isinstance(raw, dict) and (
        raw.get("model_type") in FAMILIES or ("text_config" in raw and "vision_config" in raw)
    )


def family_of_vlm(raw: dict[str, object], where: str) -> Family:
    """Raises InputError naming the families that are supported, for another one."""
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is None:
        raise InputError(
            f"{where}: vision-language models of model_type {raw.get('model_type')!r:.40} are not supported; "
            f"supported: {', '.join([*FAMILIES, *OTHER_LAYOUTS])}"
        )
    return family


def vlm_config(folder: Path, raw: dict[str, object]) -> ModelConfig:
    """The configuration of a vision-language model in a Hugging Face folder.

    Args:
        folder: with preprocessor_config.json beside the config.json.
        raw: config.json's content.

    Raises:
        InputError: a family, connector or setting that is not supported; named.
    """
    where, there = str(folder / "config.json"), str(folder / "preprocessor_config.json")
    family = family_of_vlm(raw, where)
    text = _part(raw, "text_config", where)
    kind = str(text.get("model_type", family.decoder))
    text = {"model_type": kind, **DECODERS.get(kind, {}), **text}
    text["tie_word_embeddings"] = raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    vision = {"model_type": family.tower, **_part(raw, "vision_config", where)}
    pixels = _processor(folder)
    unfiltered = {name: value for name, value in pixels.items() if name != "resample"}  # the layout has it
    tower = tower_config_from(vision, where, unfiltered, **_tower_options(raw, where))
    fields = {
        "architecture": "vanilla",
        "decoder": decoder_fields(text, where),
        "vision": dataclasses.asdict(tower),
        "vision_hidden_size": tower.feature_size,
        "connector": _connector(raw, where),
        "images": {
            "slot_id": _slot(raw, text, where),
            **_layout(str(raw["model_type"]), pixels, tower.image_size, there),
        },
    }
    refuse_absurd({"decoder": fields["decoder"]}, where)
    return validated(ModelConfig, fields, where)


def _tower_options(raw: dict[str, object], where: str) -> TowerOptions:
    kind = raw["model_type"]
    if kind in ("idefics3", "smolvlm"):
        return {"feature_layers": (-1,), "drop_first_token": False}
    layer = raw.get("vision_feature_layer", -2 if kind == "llava" else -1)
    layers = tuple(layer) if isinstance(layer, list) else (layer,)
    if not all(type(number) is int and number < 0 for number in layers):
        raise InputError(f"{where}: vision_feature_layer {layer!r:.40} is not supported; numbers from the end are")
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise InputError(f"{where}: vision_feature_select_strategy {strategy!r:.40} is neither default nor full")
    return {"feature_layers": layers, "drop_first_token": strategy == "default"}


def _connector(raw: dict[str, object], where: str) -> dict[str, object]:
    kind = raw["model_type"]
    if kind in ("idefics3", "smolvlm"):
        factor = _whole(raw.get("scale_factor", 2), "scale_factor", 16, where)
        return {"shuffle": factor, "layers": 1, "bias": False}
    if raw.get("projector_hidden_act", "gelu") != "gelu":
        raise InputError(f"{where}: projector_hidden_act {raw['projector_hidden_act']!r:.40} is not supported; gelu is")
    if kind == "llava":
        return {"bias": raw.get("multimodal_projector_bias", True)}
    ratio = raw.get("downsample_ratio", 0.5)
    if not isinstance(ratio, float) or ratio <= 0 or (1 / ratio) % 1:
        raise InputError(f"{where}: downsample_ratio {ratio!r:.40} is not one over a whole number")
    return {"shuffle": int(1 / ratio), "norm": True}


def _slot(raw: dict[str, object], text: dict[str, object], where: str) -> int:
    """The token that stands for a feature."""
    name = "image_token_id" if "image_token_id" in raw else "image_token_index"
    rows = text.get("vocab_size")
    most = rows - 1 if isinstance(rows, int) else 0
    return _whole(raw.get(name), name, most, where, least=0)


def _layout(kind: str, pixels: JsonObject, side: int, where: str) -> dict[str, object]:
    known = pixels.get("resample", {"idefics3": 1, "smolvlm": 1}.get(kind, 3))
    if not isinstance(known, int) or known not in FILTERS:
        raise InputError(
            f"{where}: resample {known!r:.40} is not supported; 1 (lanczos), 2 (bilinear), 3 (bicubic) are"
        )
    layout: dict[str, object] = {"filter": FILTERS[known]}
    if pixels.get("do_resize") is False:
        raise InputError(f"{where}: do_resize is false; not supported")
    if kind in ("idefics3", "smolvlm"):
        tile = _side(pixels.get("max_image_size", {"longest_edge": 364}), "longest_edge")
        if tile != side:
            raise InputError(
                f"{where}: max_image_size gives tiles of {tile!r:.40} pixels for a tower of {side}; only equal sides "
                "are supported"
            )
        longest = _side(pixels.get("size", {"longest_edge": 4 * 364}), "longest_edge")
        longest = _whole(longest, "size.longest_edge", 4096, where)
        return {**layout, "strategy": "rows", "longest": longest, "split": pixels.get("do_image_splitting", True)}
    if kind == "internvl":
        size = pixels.get("size", {"height": side, "width": side})
        if (_side(size, "height"), _side(size, "width")) != (side, side):
            raise InputError(f"{where}: tiles of {size!r:.60} for a tower of {side}; only equal sides are supported")
        most = _whole(pixels.get("max_patches", 12), "max_patches", 64, where)
        least = _whole(pixels.get("min_patches", 1), "min_patches", most, where)
        return {**layout, "strategy": "grid", "least_tiles": least, "most_tiles": most}
    return {**layout, **one_tile(pixels, side, where)}


def _whole(value: object, name: str, most: int, where: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{where}: {name} {value!r:.40} is no whole number from {least} to {most}")
    return value


def one_tile(pixels: JsonObject, side: int, where: str) -> dict[str, object]:
    """The strategy of CLIP's and LLaVA's processors."""
    size = pixels.get("size", {"shortest_edge": 224})
    crop = pixels.get("crop_size", {"height": 224, "width": 224}) if pixels.get("do_center_crop", True) else None
    both = isinstance(size, dict) and {"height", "width"} <= size.keys()
    wanted = (_side(size, "height"), _side(size, "width")) if both else (_side(size, "shortest_edge"),)
    cropped = (side, side) if crop is None else (_side(crop, "height"), _side(crop, "width"))
    padded = bool(pixels.get("do_pad"))
    if any(number != side for number in (*wanted, *cropped)) or (crop is None and not both and not padded):
        raise InputError(
            f"{where}: size {size!r:.60} and crop_size {crop!r:.60} do not give the {side} x {side} pixels of the tower"
        )
    if padded:
        mean = pixels.get("image_mean") or CLIP_MEAN
        if not isinstance(mean, list | tuple) or not all(isinstance(value, float) for value in mean):
            raise InputError(f"{where}: image_mean {mean!r:.60} is no color")
        return {"strategy": "pad", "color": [int(value * 255) for value in mean]}
    return {"strategy": "squash" if both else "crop"}


def _processor(folder: Path) -> JsonObject:
    """preprocessor_config.json, without what it leaves open. Raises InputError if it is missing."""
    path = folder / "preprocessor_config.json"
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        if name.startswith("do_") and not isinstance(value, bool):
            raise InputError(f"{path}: {name[:40]} {value!r:.40} is neither true nor false")
    return settings


def _side(size: object, name: str) -> object:
    return size.get(name) if isinstance(size, dict) else size


def _part(raw: dict[str, object], name: str, where: str) -> dict[str, object]:
    part = raw.get(name)
    if not isinstance(part, dict):
        raise InputError(f"{where}: {name} is not a JSON object")
    return {name: value for name, value in part.items() if value is not None}
