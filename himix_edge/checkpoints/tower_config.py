"""The configurations of vision towers in Hugging Face folders: config.json and preprocessor_config.json."""

import math
from pathlib import Path
from typing import TypedDict, TypeGuard, Unpack

from himix_edge.checkpoints.config_parts import said
from himix_edge.config import TransformersVisionConfig, VisionConfig, ViTConfig
from himix_edge.config.vision import RGB
from himix_edge.errors import InputError
from himix_edge.model.transformers_tower import KINDS, transformers_config
from himix_edge.reading import MAX_VALUE, JsonObject, read_json, refuse_absurd, validated
from himix_edge.tower_presets import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)
FAMILY_OF = {
    "siglip": "siglip", "siglip_vision_model": "siglip", "clip": "clip", "clip_vision_model": "clip",
    "dinov2": "dinov2", "vit": "vit", "beit": "beit", "hiera": "hiera",
    "idefics3_vision": "idefics3", "smolvlm_vision": "idefics3", "internvl_vision": "internvl",
}  # fmt: skip
# transformers' defaults, for what a config.json leaves out
DEFAULTS: dict[str, JsonObject] = {
    "siglip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
               "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    "clip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    "dinov2": {"hidden_size": 768, "mlp_ratio": 4, "num_hidden_layers": 12, "num_attention_heads": 12,
               "image_size": 224, "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    "idefics3": {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
                 "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    "internvl": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                 "image_size": 448, "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
                 "norm_type": "layer_norm", "use_mean_pooling": True},
    "vit": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
}  # fmt: skip
PLAIN_GRID = ("siglip", "idefics3")  # without a class token
ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu"}
NORMALIZATION = {
    "siglip": (HALF, HALF), "clip": (CLIP_MEAN, CLIP_STD), "dinov2": (IMAGENET_MEAN, IMAGENET_STD), "vit": (HALF, HALF),
    "beit": (HALF, HALF), "hiera": (IMAGENET_MEAN, IMAGENET_STD), "idefics3": (HALF, HALF),
    "internvl": (IMAGENET_MEAN, IMAGENET_STD),
}  # fmt: skip


class TowerOptions(TypedDict, total=False):
    """What is chosen of a tower, see `tower_config_from`."""

    feature_layers: tuple[int, ...]
    drop_first_token: bool | None
    pooling: int
    image_size: int | None


def tower_config(folder: Path, **options: Unpack[TowerOptions]) -> VisionConfig:
    """The configuration of a tower in a Hugging Face folder; `options` as in `tower_config_from`."""
    preprocessor = folder / "preprocessor_config.json"
    settings = read_json(preprocessor) if preprocessor.is_file() else {}
    where = str(folder / "config.json")
    return tower_config_from(read_json(folder / "config.json"), where, settings, str(preprocessor), **options)


def tower_config_from(
    raw: object,
    where: str,
    preprocessor: object = None,
    beside: str = "preprocessor_config.json",
    *,
    feature_layers: tuple[int, ...] = (-2,),
    drop_first_token: bool | None = None,
    pooling: int = 1,
    image_size: int | None = None,
) -> VisionConfig:
    """The configuration of a tower from its config.json's content.

    Args:
        raw: the config; of CLIP and SigLIP the whole model's or the vision part's.
        where: the file, for messages.
        preprocessor: preprocessor_config.json's content: mean, deviation and filter are taken from it.
        beside: that file, for messages.
        feature_layers: indices into the hidden states; BEiT and Hiera take one.
        drop_first_token: None: where the first is a class token.
        pooling: see ViTConfig.
        image_size: pixels; None: the checkpoint's. A table of positions is interpolated to it.

    Raises:
        InputError: a family or setting that is not supported, or values that contradict each other.
    """
    family, values = family_settings(raw, where)
    shared = {
        **_preprocessing({} if preprocessor is None else preprocessor, family, beside),
        "drop_first_token": family not in (*PLAIN_GRID, "hiera") if drop_first_token is None else drop_first_token,
    }
    if values.get("quantization_config"):
        raise InputError(f"{where}: quantization_config is not supported; give the tower in float")
    if values.get("num_channels", 3) != 3:
        raise InputError(f"{where}: num_channels {values['num_channels']!r:.40}; a tower here takes RGB")
    size = square_side(values.get("image_size", 224), where)
    if family in KINDS:
        if len(feature_layers) != 1 or pooling != 1 or image_size not in (None, size):
            raise InputError(f"{where}: a {family} tower takes one feature layer, no pooling, and its own image size")
        plain = {**_plain(values), "model_type": family}
        refuse_absurd({"vision": {"config": plain, "image_size": size}}, where)
        fields = {**shared, "config": plain, "image_size": size, "feature_layer": feature_layers[0]}
        draft = validated(TransformersVisionConfig, {**fields, "num_tokens": 1, "feature_size": 1}, where)
        return transformers_config(draft, where)
    if values.get("use_swiglu_ffn"):
        raise InputError(f"{where}: DINOv2 with use_swiglu_ffn (the giant one) is not supported")
    if values.get("norm_type", "layer_norm") != "layer_norm" or values.get("use_qk_norm"):
        raise InputError(f"{where}: InternViT with rms_norm or use_qk_norm (the one of 6 billion) is not supported")
    act = str(values["hidden_act"])
    if act not in ACTS:
        raise InputError(f"{where}: hidden_act {act[:40]!r} is not supported; known: {', '.join(ACTS)}")
    if family == "dinov2":
        hidden, ratio = values["hidden_size"], values["mlp_ratio"]
        if not _is_size(hidden) or not _is_size(ratio):
            raise InputError(f"{where}: hidden_size {hidden!r:.40} or mlp_ratio {ratio!r:.40} is no size")
        values["intermediate_size"] = int(hidden * ratio)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")
    sizes = {
        **{name: values[name] for name in names}, "image_size": size if image_size is None else image_size,
        "patch_size": square_side(values["patch_size"], where), "pooling": pooling,
    }  # fmt: skip
    refuse_absurd(sizes, where)
    fields = {
        **shared, **sizes, "hidden_act": ACTS[act], "class_token": family not in PLAIN_GRID,
        "pre_norm": family == "clip", "layer_scale": family in ("dinov2", "internvl"), "feature_layers": feature_layers,
        "post_norm": feature_layers == (-1,) and (family == "idefics3" or values.get("use_mean_pooling") is False),
    }  # fmt: skip
    return validated(ViTConfig, fields, where)


def family_settings(raw: object, where: str) -> tuple[str, JsonObject]:
    """The family, and the vision part's settings over transformers' defaults."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(raw).__name__}")
    family = FAMILY_OF.get(str(raw.get("model_type")))
    if family is None:
        raise InputError(
            f"{where}: model_type {raw.get('model_type')!r:.40} is not a known tower: {', '.join(FAMILY_OF)}"
        )
    part = raw.get("vision_config") or raw
    if not isinstance(part, dict):
        raise InputError(f"{where}: vision_config is not a JSON object")
    return family, {**DEFAULTS.get(family, {}), **said(part)}


def _preprocessing(settings: object, family: str, where: str) -> JsonObject:
    """Mean, deviation and filter. Raises InputError for what the tower would silently do otherwise."""
    if not isinstance(settings, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(settings).__name__}")
    mean, std = NORMALIZATION[family]
    mean, std = _color(settings, "image_mean", mean, where), _color(settings, "image_std", std, where)
    if settings.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = settings.get("rescale_factor", 1 / 255)
    if settings.get("do_rescale") is False or not isinstance(factor, float) or not math.isclose(factor * 255, 1):
        raise InputError(f"{where}: pixels are scaled by other than 1/255 (do_rescale, rescale_factor); not supported")
    resample = settings.get("resample", 2 if family == "vit" else 3)
    if resample not in (2, 3):
        raise InputError(f"{where}: resample {resample!r:.40} is not bilinear (2) or bicubic (3)")
    return {"image_mean": mean, "image_std": std, "resample": "bilinear" if resample == 2 else "bicubic"}


def _color(settings: JsonObject, name: str, default: RGB, where: str) -> RGB:
    """Three numbers of a preprocessor_config.json; its `default` where it says nothing."""
    value = settings.get(name)
    if value is None or value == []:
        return default
    values = list(value) if isinstance(value, list | tuple) else []
    numbers = [float(n) for n in values if type(n) in (int, float) and -10 <= n <= 10]
    if len(values) != 3 or len(numbers) != 3:
        raise InputError(f"{where}: {name} {value!r:.60} is no color: three numbers of pixels from 0 to 1")
    if name == "image_std" and min(numbers) < 1e-4:
        raise InputError(f"{where}: {name} {value!r:.60} must be positive, and of pixels from 0 to 1")
    return numbers[0], numbers[1], numbers[2]


def square_side(value: object, where: str) -> int:
    """A square's side, given as one number or as two equal ones."""
    sides = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(sides) <= 2 or sides[0] != sides[-1] or type(sides[0]) is not int or sides[0] < 1:
        raise InputError(f"{where}: {value!r:.40} as image_size or patch_size; only squares are supported")
    return sides[0]


def _is_size(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_VALUE


def _plain(values: JsonObject) -> JsonObject:
    """What decides a module's shape: without names, label tables and anything that is not data."""
    dropped = {"architectures", "id2label", "label2id", "torch_dtype", "dtype", "transformers_version", "auto_map"}
    return {name: value for name, value in values.items() if name not in dropped and not name.startswith("_")}
