"""Vision towers in Hugging Face folders: SigLIP, CLIP (TinyCLIP), DINOv2, ViT; through transformers BEiT, Hiera.

The first four are one ViT here; a table for each family says where its tensors are found.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.checkpoints.assemble import check_names, expected_shapes
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.packages import efficientnet_lite0_state
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.config import CNNConfig, TransformersVisionConfig, VisionConfig, ViTConfig, read_json
from himix_edge.errors import InputError
from himix_edge.model.towers import build_tower
from himix_edge.model.transformers_tower import KINDS, transformers_config
from himix_edge.towers import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)
FAMILY_OF = {
    "siglip": "siglip", "siglip_vision_model": "siglip", "clip": "clip", "clip_vision_model": "clip",
    "dinov2": "dinov2", "vit": "vit", "beit": "beit", "hiera": "hiera",
}  # fmt: skip
# transformers' defaults, for what a config.json leaves out
DEFAULTS: dict[str, dict[str, Any]] = {
    "siglip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
               "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    "clip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    "dinov2": {"hidden_size": 768, "mlp_ratio": 4, "num_hidden_layers": 12, "num_attention_heads": 12,
               "image_size": 224, "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    "vit": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
}  # fmt: skip
ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu"}
NORMALISATION = {
    "siglip": (HALF, HALF), "clip": (CLIP_MEAN, CLIP_STD), "dinov2": (IMAGENET_MEAN, IMAGENET_STD), "vit": (HALF, HALF),
    "beit": (HALF, HALF), "hiera": (IMAGENET_MEAN, IMAGENET_STD),
}  # fmt: skip
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as preprocessor_config.json has them
PREFIX = re.compile(r"^(vision_model|vit|dinov2|beit|hiera)\.")
# tensors that a tower here has no use for: heads, poolers, the text model
LEFT_OVER = re.compile(
    r"^(text_model|text_projection|visual_projection|logit_|classifier|head\.|post_layernorm|layernorm|pooler|decoder"
    r"|lm_head|embeddings\.mask_token|embeddings\.position_ids)"
)
BLOCK = re.compile(r"^encoder\.layers?\.(\d+)\.")

_CLIP_BLOCK = {
    "layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    **{f"self_attn.{x}": f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")},
}  # fmt: skip
_VIT_ATTENTION = {
    "self_attn.q_proj": "attention.attention.query", "self_attn.k_proj": "attention.attention.key",
    "self_attn.v_proj": "attention.attention.value", "self_attn.out_proj": "attention.output.dense",
}  # fmt: skip
BLOCKS = {
    "siglip": ("encoder.layers", _CLIP_BLOCK),
    "clip": ("encoder.layers", _CLIP_BLOCK),
    "dinov2": ("encoder.layer", {
        **_VIT_ATTENTION, "layer_norm1": "norm1", "layer_norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    }),
    "vit": ("encoder.layer", {
        **_VIT_ATTENTION, "layer_norm1": "layernorm_before", "layer_norm2": "layernorm_after",
        "fc1": "intermediate.dense", "fc2": "output.dense",
    }),
}  # fmt: skip


def tower_config(folder: Path, **options: Any) -> VisionConfig:
    """The configuration of a tower in a Hugging Face folder; `options` as in `tower_config_from`."""
    preprocessor = folder / "preprocessor_config.json"
    settings = read_json(preprocessor) if preprocessor.is_file() else {}
    return tower_config_from(read_json(folder / "config.json"), str(folder / "config.json"), settings, **options)


def tower_config_from(
    raw: dict[str, Any],
    where: str,
    preprocessor: dict[str, Any] | None = None,
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
        feature_layers: indices into the hidden states; BEiT and Hiera take one.
        drop_first_token: None: where the first is a class token.
        pooling: see ViTConfig.
        image_size: pixels; None: the checkpoint's. A table of positions is interpolated to it.

    Raises:
        InputError: a family or setting that is not supported, or values that contradict each other.
    """
    family = FAMILY_OF.get(str(raw.get("model_type")))
    if family is None:
        raise InputError(f"{where}: model_type {raw.get('model_type')!r} is not a known tower: {', '.join(FAMILY_OF)}")
    raw = raw.get("vision_config") or raw
    preprocessor = preprocessor or {}
    mean, std = NORMALISATION[family]
    shared: dict[str, Any] = {
        "image_mean": tuple(preprocessor.get("image_mean") or mean),
        "image_std": tuple(preprocessor.get("image_std") or std),
        "resample": RESAMPLE.get(preprocessor.get("resample", 2 if family == "vit" else 3), "bicubic"),
        "drop_first_token": family not in ("siglip", "hiera") if drop_first_token is None else drop_first_token,
    }
    if family in KINDS:
        size = raw.get("image_size", 224)
        size = size[0] if isinstance(size, list) else size
        if len(feature_layers) != 1 or pooling != 1 or image_size not in (None, size):
            raise InputError(f"{where}: a {family} tower takes one feature layer, no pooling, and its own image size")
        plain = {**_plain(raw), "model_type": family}
        return transformers_config(plain, where, image_size=size, feature_layer=feature_layers[0], **shared)
    values = {**DEFAULTS[family], **{k: v for k, v in raw.items() if v is not None}}
    if values.get("use_swiglu_ffn"):
        raise InputError(f"{where}: DINOv2 with use_swiglu_ffn (the giant one) is not supported")
    if values["hidden_act"] not in ACTS:
        raise InputError(f"{where}: hidden_act {values['hidden_act']!r} is not supported; known: {', '.join(ACTS)}")
    if family == "dinov2":
        values["intermediate_size"] = int(values["hidden_size"] * values["mlp_ratio"])
    names = ("patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    try:
        return ViTConfig(
            image_size=image_size or values["image_size"], **{name: values[name] for name in names},
            layer_norm_eps=values["layer_norm_eps"], hidden_act=ACTS[values["hidden_act"]],  # type: ignore[arg-type]
            class_token=family != "siglip", pre_norm=family == "clip", layer_scale=family == "dinov2",
            feature_layers=feature_layers, pooling=pooling, **shared,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from None


def tower_weights(folder: Path, config: VisionConfig) -> Weights:
    """The weights of a tower in a Hugging Face folder, see `tower_weights_from`."""
    return tower_weights_from(folder_weights(folder), read_json(folder / "config.json"), config, str(folder))


def tower_weights_from(tensors: Weights, raw: dict[str, Any], config: VisionConfig, where: str = "tower") -> Weights:
    """A tower's weights under this project's names.

    Args:
        tensors: Hugging Face's, with or without their `vision_model.` or family prefix.
        raw: the tower's config.json, for its family.
        config: what `tower_config` made of it.
        where: the source, for messages.

    Raises:
        InputError: missing, surplus or misshapen tensors, named.
    """
    stripped = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    if isinstance(config, TransformersVisionConfig):
        found = {f"inner.{name}": tensor for name, tensor in stripped.items() if not LEFT_OVER.match(name)}
    else:
        assert isinstance(config, ViTConfig)
        found, used = _vit_weights(stripped, FAMILY_OF[str(raw["model_type"])], config, where)
        found |= {name: stripped[name] for name in stripped.keys() - used if not _left_over(name, config)}
    with torch.device("meta"):
        expected = expected_shapes(build_tower(config))
    check_names(found, expected, where)
    return found


def _left_over(name: str, config: ViTConfig) -> bool:
    """Whether the tower has no use for a tensor; that includes the blocks behind the last feature layer."""
    block = BLOCK.match(name)
    return bool(LEFT_OVER.match(name)) or bool(block and int(block[1]) >= config.num_layers_used)


def efficientnet_lite0_weights() -> Weights:
    """EfficientNet-Lite0's ImageNet weights (see `efficientnet_lite0_state`), batch normalisation folded in."""
    state = efficientnet_lite0_state()
    with torch.device("meta"):
        tower = build_tower(CNNConfig("efficientnet_lite0"))
    weights = {}
    for name, shape in expected_shapes(tower).items():
        module, _, part = name.rpartition(".")
        convolution, norm = _efficientnet_names(module)
        read = partial(_folded_weight if part == "weight" else _folded_bias, state, convolution, norm)
        weights[name] = LazyTensor(shape, read)
    return weights


def _efficientnet_names(module: str) -> tuple[str, str]:
    """The package's names of a convolution and the normalisation behind it."""
    if module in ("stem", "head"):
        return f"_conv_{module}", "_bn0" if module == "stem" else "_bn1"
    _, block, part = module.split(".")
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    return f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}"


def _gain(state: Weights, norm: str) -> Tensor:
    return state[f"{norm}.weight"].read() / (state[f"{norm}.running_var"].read() + 1e-3).sqrt()


def _folded_weight(state: Weights, convolution: str, norm: str) -> Tensor:
    return state[f"{convolution}.weight"].read() * _gain(state, norm)[:, None, None, None]


def _folded_bias(state: Weights, convolution: str, norm: str) -> Tensor:
    return state[f"{norm}.bias"].read() - state[f"{norm}.running_mean"].read() * _gain(state, norm)


def _vit_weights(
    tensors: Weights, family: str, config: ViTConfig, where: str
) -> tuple[dict[str, LazyTensor], set[str]]:
    """Tensors under our names, and the names they had."""
    weights: dict[str, LazyTensor] = {}
    used: set[str] = set()

    def take(ours: str, theirs: str, change: Callable[[Tensor], Tensor] | None = None, shape: Any = None) -> None:
        source = tensors.get(theirs)
        if source is None:
            raise InputError(f"{where}: tensors do not fit config.json: missing {theirs}")
        used.add(theirs)
        read = source.read if change is None else lambda: change(source.read())
        weights[ours] = LazyTensor(tuple(shape or source.shape), read)

    clip_like = family in ("siglip", "clip")
    patch = "embeddings.patch_embedding" if clip_like else "embeddings.patch_embeddings.projection"
    size, flat = config.hidden_size, 3 * config.patch_size**2
    kernel = tensors[f"{patch}.weight"].shape if f"{patch}.weight" in tensors else ()
    flattened = (kernel[0], math.prod(kernel[1:])) if kernel else (size, flat)
    take("patch_embed.projection.weight", f"{patch}.weight", lambda w: w.flatten(1), flattened)
    if family == "clip":
        weights["patch_embed.projection.bias"] = LazyTensor((size,), lambda: torch.zeros(size))
    else:
        take("patch_embed.projection.bias", f"{patch}.bias")
    if config.class_token:
        name = "embeddings.class_embedding" if family == "clip" else "embeddings.cls_token"
        take("class_token", name, torch.flatten, (size,))
    name = "embeddings.position_embedding.weight" if clip_like else "embeddings.position_embeddings"
    table = tensors.get(name)
    stored = table.shape[-2] if table is not None and len(table.shape) >= 2 else 0
    rows = config.grid**2 + config.class_token
    if math.isqrt(max(stored - config.class_token, 0)) ** 2 != stored - config.class_token:
        raise InputError(f"{where}: {name} has {stored} positions, which are no square grid")
    take("position_embed", name, partial(_positions, rows=rows, class_token=config.class_token), (rows, size))
    if config.pre_norm:
        for part in ("weight", "bias"):
            take(f"pre_norm.{part}", f"pre_layrnorm.{part}")
    root, parts = BLOCKS[family]
    for i in range(config.num_layers_used):
        for ours, theirs in parts.items():
            for part in ("weight", "bias"):
                take(f"blocks.{i}.{ours}.{part}", f"{root}.{i}.{theirs}.{part}")
        for number in (1, 2) if config.layer_scale else ():
            take(f"blocks.{i}.scale{number}.weight", f"{root}.{i}.layer_scale{number}.lambda1")
    return weights, used


def _positions(table: Tensor, rows: int, class_token: bool) -> Tensor:
    """A learned table of positions (N, d); for another grid interpolated bicubically, as transformers does."""
    table = table.reshape(-1, table.shape[-1])
    if len(table) == rows:
        return table
    first, grid = table[: int(class_token)], table[int(class_token) :].float()
    old, new = math.isqrt(len(grid)), math.isqrt(rows - class_token)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), resized.permute(0, 2, 3, 1).reshape(new * new, -1)])


def _plain(raw: dict[str, Any]) -> dict[str, Any]:
    """What decides a module's shape: without names, label tables and anything that is not data."""
    dropped = {"architectures", "id2label", "label2id", "torch_dtype", "dtype", "transformers_version", "auto_map"}
    return {name: value for name, value in raw.items() if name not in dropped and not name.startswith("_")}
