"""The weights of vision towers: Hugging Face folders of SigLIP, CLIP (and TinyCLIP), DINOv2, ViT, BEiT and Hiera.

The first four are one ViT here; a table for each family says where its tensors are found. And EfficientNet-Lite0's.
"""

import re
from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.checkpoints.assemble import check_names, expected_shapes
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.packages import efficientnet_lite0_state
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tower_config import family_settings, square_side, tower_config, tower_config_from
from himix_edge.config import CNNConfig, TransformersVisionConfig, VisionConfig, ViTConfig
from himix_edge.errors import InputError
from himix_edge.model.meta import meta_device
from himix_edge.model.tower import build_tower
from himix_edge.reading import JsonObject, read_json

__all__ = ["efficientnet_lite0_weights", "tower_config", "tower_config_from", "tower_weights", "tower_weights_from"]

DEPTHS = {"beit": 12, "hiera": 4}  # transformers' defaults
PREFIX = re.compile(r"^(vision_model|vit|dinov2|beit|hiera)\.")
# tensors that a tower here has no use for: heads, poolers, the text model
LEFT_OVER = re.compile(
    r"^(text_model|text_projection|visual_projection|logit_|classifier|head\.|post_layernorm|layernorm|pooler|decoder"
    r"|lm_head|embeddings\.mask_token|embeddings\.position_ids)|relative_position_index$"
)
BLOCK = re.compile(r"^encoder\.(?:layers?|stages)\.(\d+)\.")

_CLIP_BLOCK = {
    "layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    **{f"self_attn.{x}": f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")},
}  # fmt: skip
_VIT_ATTENTION = {
    "self_attn.q_proj": "attention.attention.query", "self_attn.k_proj": "attention.attention.key",
    "self_attn.v_proj": "attention.attention.value", "self_attn.out_proj": "attention.output.dense",
}  # fmt: skip
_INPUTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BLOCKS = {
    "siglip": ("encoder.layers", _CLIP_BLOCK),
    "clip": ("encoder.layers", _CLIP_BLOCK),
    "dinov2": ("encoder.layer", {
        **_VIT_ATTENTION, "layer_norm1": "norm1", "layer_norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    }),
    "idefics3": ("encoder.layers", _CLIP_BLOCK),
    "internvl": ("encoder.layer", {
        "layer_norm1": "layernorm_before", "layer_norm2": "layernorm_after", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
        **{f"self_attn.{x}": f"attention.{x}" for x in ("q_proj", "k_proj", "v_proj")},
        "self_attn.out_proj": "attention.projection_layer",
    }),
    "vit": ("encoder.layer", {
        **_VIT_ATTENTION, "layer_norm1": "layernorm_before", "layer_norm2": "layernorm_after",
        "fc1": "intermediate.dense", "fc2": "output.dense",
    }),
}  # fmt: skip


def tower_weights(folder: Path, config: VisionConfig) -> Weights:
    """The weights of a tower in a Hugging Face folder, see `tower_weights_from`."""
    return tower_weights_from(folder_weights(folder), read_json(folder / "config.json"), config, str(folder))


def tower_weights_from(tensors: Weights, raw: object, config: VisionConfig, where: str = "tower") -> Weights:
    """A tower's weights under this project's names.

    Args:
        tensors: Hugging Face's, with or without their `vision_model.` or family prefix.
        raw: the tower's config.json, for its family and its own image size.
        config: what `tower_config` made of it.
        where: the source, for messages.

    Raises:
        InputError: missing, surplus or misshapen tensors, named.
    """
    stripped = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    family, values = family_settings(raw, where)
    if isinstance(config, TransformersVisionConfig):
        depth = _depth(values, family, where)
        behind = range(depth + 1 + config.feature_layer, depth)
        found = {f"inner.{name}": t for name, t in stripped.items() if not _left_over(name, behind)}
    else:
        assert isinstance(config, ViTConfig)
        stored = square_side(values["image_size"], where) // config.patch_size
        found, used = _vit_weights(stripped, family, config, stored, where)
        behind = range(config.num_layers_used, config.num_hidden_layers)
        found |= {name: stripped[name] for name in stripped.keys() - used if not _left_over(name, behind)}
    with meta_device():
        expected = expected_shapes(build_tower(config))
    check_names(found, expected, where)
    return found


def _depth(values: JsonObject, family: str, where: str) -> int:
    """Of BEiT the blocks, of Hiera the stages."""
    depths, layers = values.get("depths"), values.get("num_hidden_layers", DEPTHS[family])
    depth = len(depths) if isinstance(depths, list | tuple) else layers
    if not isinstance(depth, int):
        raise InputError(f"{where}: num_hidden_layers {depth!r:.40} is no number of layers")
    return depth


def _left_over(name: str, behind: range) -> bool:
    """Whether the tower has no use for a tensor; that includes the blocks behind the last feature layer."""
    block = BLOCK.match(name)
    return bool(LEFT_OVER.search(name)) or bool(block and int(block[1]) in behind)


def efficientnet_lite0_weights() -> Weights:
    """EfficientNet-Lite0's ImageNet weights (see `efficientnet_lite0_state`), batch normalisation folded in."""
    state = efficientnet_lite0_state()
    with meta_device():
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
    tensors: Weights, family: str, config: ViTConfig, stored_grid: int, where: str
) -> tuple[dict[str, LazyTensor], set[str]]:
    """Tensors under our names, and the names they had; a changed one must have the shape that config.json says."""
    weights: dict[str, LazyTensor] = {}
    used: set[str] = set()

    def take(ours: str, theirs: str) -> None:
        if theirs not in tensors:
            raise InputError(f"{where}: tensors do not fit config.json: missing {theirs}")
        used.add(theirs)
        weights[ours] = tensors[theirs]

    def reshape(ours: str, theirs: str, stored: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> None:
        take(ours, theirs)
        source = weights[ours]
        if tuple(n for n in source.shape if n != 1) != tuple(n for n in stored if n != 1):
            raise InputError(f"{where}: {theirs} has shape {source.shape}, config.json says {stored}")
        with torch.device("meta"):
            shape = tuple(change(torch.empty(source.shape)).shape)
        weights[ours] = LazyTensor(shape, lambda: change(source.read()))

    clip_like = family in ("siglip", "clip", "idefics3")
    size, patch_size = config.hidden_size, config.patch_size
    patch = "embeddings.patch_embedding" if clip_like else "embeddings.patch_embeddings.projection"
    kernel = (size, 3, patch_size, patch_size)
    reshape("patch_embed.projection.weight", f"{patch}.weight", kernel, lambda w: w.flatten(1))
    if family == "clip":
        weights["patch_embed.projection.bias"] = LazyTensor((size,), lambda: torch.zeros(size))
    else:
        take("patch_embed.projection.bias", f"{patch}.bias")
    if config.class_token:
        name = "embeddings.class_embedding" if family == "clip" else "embeddings.cls_token"
        reshape("class_token", name, (size,), torch.flatten)
    name = "embeddings.position_embedding.weight" if clip_like else "embeddings.position_embeddings"
    change = partial(_positions, rows=config.grid**2 + config.class_token, class_token=config.class_token)
    reshape("position_embed", name, (stored_grid**2 + config.class_token, size), change)
    if config.pre_norm:
        for part in ("weight", "bias"):
            take(f"pre_norm.{part}", f"pre_layrnorm.{part}")
    root, parts = BLOCKS[family]
    for i in range(config.num_layers_used):
        for ours, theirs in parts.items():
            for part in ("weight", "bias"):
                theirs_whole = f"{root}.{i}.{theirs}.{part}"
                if part == "bias" and theirs_whole not in tensors and family == "internvl" and ours in _INPUTS:
                    weights[f"blocks.{i}.{ours}.bias"] = LazyTensor((size,), lambda: torch.zeros(size))
                else:
                    take(f"blocks.{i}.{ours}.{part}", theirs_whole)
        for number in (1, 2) if config.layer_scale else ():
            scale = f"lambda_{number}" if family == "internvl" else f"layer_scale{number}.lambda1"
            take(f"blocks.{i}.scale{number}.weight", f"{root}.{i}.{scale}")
    for part in ("weight", "bias") if config.post_norm else ():
        take(f"post_norm.{part}", f"{'layernorm' if family == 'internvl' else 'post_layernorm'}.{part}")
    return weights, used


def _positions(table: Tensor, rows: int, class_token: bool) -> Tensor:
    """A learned table of positions (N, d); for another grid interpolated bicubically, as transformers does."""
    table = table.reshape(-1, table.shape[-1])
    if len(table) == rows:
        return table
    first, grid = table[: int(class_token)], table[int(class_token) :].float()
    old, new = isqrt(len(grid)), isqrt(rows - class_token)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), resized.permute(0, 2, 3, 1).reshape(new * new, -1)])
