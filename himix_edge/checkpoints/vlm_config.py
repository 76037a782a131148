"""Vision-language models in Hugging Face folders: SmolVLM and Idefics3, the LLaVAs, InternVL. Their configurations."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from himix_edge.checkpoints.config_parts import part_of_config
from himix_edge.checkpoints.tower_config import TowerOptions, tower_config_from
from himix_edge.checkpoints.vlm_layout import PROCESSOR, layout_of, processor_of, whole
from himix_edge.config import ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, refuse_absurd, validated

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
        feature_layer: which of the tower's hidden states, where vision_feature_layer does not say.
        select: likewise of vision_feature_select_strategy.
        newline: whether there is an `image_newline`.
    """

    decoder: str
    tower: str
    prefixes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    connector: dict[str, str]
    feature_layer: int = -1
    select: str = "default"
    newline: bool = False


_NESTED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
_IDEFICS3 = (("model.text_model.",), ("model.vision_model.",), ("model.connector.",))
_MLP = {"linear_1": "0", "linear_2": "2"}
FAMILIES = {
    "idefics3": Family("llama", "idefics3_vision", _IDEFICS3, {"modality_projection.proj": "1"}),
    "smolvlm": Family("llama", "smolvlm_vision", _IDEFICS3, {"modality_projection.proj": "1"}),
    "llava": Family("llama", "clip_vision_model", _NESTED, _MLP, -2),
    "llava_next": Family("llama", "clip_vision_model", _NESTED, _MLP, -2, newline=True),
    "llava_onevision": Family("qwen2", "siglip_vision_model", _NESTED, _MLP, select="full", newline=True),
    "internvl": Family("qwen2", "internvl_vision", _NESTED, {"layer_norm": "1", "linear_1": "2", "linear_2": "4"}),
}
TIED = "tie_word_embeddings"
# those of `families` that have files of their own
OTHER_LAYOUTS = (
    "fast_vlm",
    "internvl_chat",
    "nanoVLM",
    "llava_qwen2",
    "llava-qwen2",
    "bunny-qwen2",
    "mobilevlm",
    "llava_llama",
    "tinyllava",
)


def is_vlm(raw: object) -> TypeGuard[dict[str, object]]:
    """Whether a config.json is that of a vision-language model, of a known family or not."""
    return isinstance(raw, dict) and (
        str(raw.get("model_type")) in FAMILIES or ("text_config" in raw and "vision_config" in raw)
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


def tied(raw: dict[str, object], text: dict[str, object], where: str) -> bool:
    """Whether the head is the embedding: where one of the two says so; a file with a head of its own has that one.

    transformers 4.57 goes by text_config's alone; folders have either, or say the opposite in both.

    Raises:
        InputError: one says neither true nor false.
    """
    said = {"": raw.get(TIED), "text_config.": text.get(TIED)}
    for place, value in said.items():
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{where}: {place}{TIED} {value!r:.40} is neither true nor false")
    return True in said.values()


def vlm_config(folder: Path, raw: dict[str, object]) -> ModelConfig:
    """The configuration of a vision-language model in a Hugging Face folder.

    Args:
        folder: with preprocessor_config.json beside the config.json.
        raw: config.json's content.

    Raises:
        InputError: a family, connector or setting that is not supported; named.
    """
    where = str(folder / "config.json")
    family = family_of_vlm(raw, where)
    text = part_of_config(raw, "text_config", where)
    kind = str(text.get("model_type", family.decoder))
    text = {"model_type": kind, **DECODERS.get(kind, {}), **text}
    text["tie_word_embeddings"] = tied(raw, text, where)
    vision = {"model_type": family.tower, **part_of_config(raw, "vision_config", where)}
    pixels = processor_of(folder, str(raw["model_type"]))
    unfiltered = {name: value for name, value in pixels.items() if name != "resample"}  # the layout has it
    beside = str(folder / PROCESSOR)
    tower = tower_config_from(vision, where, unfiltered, beside, **_tower_options(raw, where))
    fields = {
        "architecture": "vanilla",
        "decoder": decoder_fields(text, where),
        "vision": dataclasses.asdict(tower),
        "vision_hidden_size": tower.feature_size,
        "connector": _connector(raw, where),
        "images": {"slot_id": _slot(raw, text, where), **layout_of(raw, pixels, tower.image_size, folder)},
    }
    refuse_absurd({"decoder": fields["decoder"]}, where)
    return validated(ModelConfig, fields, where)


def _tower_options(raw: dict[str, object], where: str) -> TowerOptions:
    kind = raw["model_type"]
    if kind in ("idefics3", "smolvlm"):
        return {"feature_layers": (-1,), "drop_first_token": False}
    family = FAMILIES[str(kind)]
    layer = raw.get("vision_feature_layer", family.feature_layer)
    layers = tuple(layer) if isinstance(layer, list) else (layer,)
    if not all(type(number) is int and number < 0 for number in layers):
        raise InputError(f"{where}: vision_feature_layer {layer!r:.40} is not supported; numbers from the end are")
    strategy = raw.get("vision_feature_select_strategy", family.select)
    if strategy not in ("default", "full"):
        raise InputError(f"{where}: vision_feature_select_strategy {strategy!r:.40} is neither default nor full")
    return {"feature_layers": layers, "drop_first_token": strategy == "default"}


def _connector(raw: dict[str, object], where: str) -> dict[str, object]:
    kind = raw["model_type"]
    if kind in ("idefics3", "smolvlm"):
        factor = whole(raw.get("scale_factor", 2), "scale_factor", 16, where)
        return {"shuffle": factor, "layers": 1, "bias": False}
    if raw.get("projector_hidden_act", "gelu") != "gelu":
        raise InputError(f"{where}: projector_hidden_act {raw['projector_hidden_act']!r:.40} is not supported; gelu is")
    if kind != "internvl":
        return {"bias": raw.get("multimodal_projector_bias", True), "newline": FAMILIES[str(kind)].newline}
    ratio = raw.get("downsample_ratio", 0.5)
    if not isinstance(ratio, float) or ratio <= 0 or (1 / ratio) % 1:
        raise InputError(f"{where}: downsample_ratio {ratio!r:.40} is not one over a whole number")
    return {"shuffle": int(1 / ratio), "norm": True}


def _slot(raw: dict[str, object], text: dict[str, object], where: str) -> int:
    """The token that stands for a feature."""
    name = "image_token_id" if "image_token_id" in raw else "image_token_index"
    rows = text.get("vocab_size")
    most = rows - 1 if isinstance(rows, int) else 0
    return whole(raw.get(name), name, most, where, least=0)
