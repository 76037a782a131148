"""InternVL in its authors' layout (OpenGVLab): `internvl_chat`, InternViT, pixel shuffle, a norm and two layers.

What transformers' layout keeps in files stands in their code here: the chat templates by name, and how a picture is
normalised. The decoders are Llama's, Qwen2's and Qwen3's.
"""

import re
from dataclasses import asdict, replace
from functools import cached_property

from tokenizers import Tokenizer

from himix_edge.checkpoints.config_parts import part_of_config
from himix_edge.checkpoints.families.parts import ConfigFolder, image_slot, thirds
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.start_token import start_token, with_start_token
from himix_edge.checkpoints.tokenizers import folder_tokenizer
from himix_edge.checkpoints.tower_config import tower_config_from
from himix_edge.checkpoints.tower_weights import tower_weights_from
from himix_edge.checkpoints.vlm_config import DECODERS
from himix_edge.checkpoints.vlm_text import TAGS
from himix_edge.config import ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.image_text import ImageText, Tags
from himix_edge.parts import TOWER
from himix_edge.reading import JsonObject, refuse_absurd, validated
from himix_edge.text import ChatTemplate
from himix_edge.tower_presets import IMAGENET_MEAN

SLOT = "<IMG_CONTEXT>"
LANGUAGE_MODELS = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
# their defaults, for what a vision_config leaves out; those of the large tower
VISION: JsonObject = {
    "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 48, "num_attention_heads": 25,
    "image_size": 224, "patch_size": 14, "norm_type": "rms_norm", "qk_normalization": True,
}  # fmt: skip
NEUTRAL = {"ps_version": "v2", "use_backbone_lora": 0, "use_llm_lora": 0}
SHANGHAI_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
SHANGHAI = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
)
TEMPLATES = {
    "internvl2_5": ChatTemplate(
        user=("<|im_start|>user\n", "<|im_end|>\n"), assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        system=("<|im_start|>system\n", "<|im_end|>\n"), stop=("<|im_end|>",), default_system=SHANGHAI_2_5,
    ),
    "Hermes-2": ChatTemplate(
        user=("<|im_start|>user\n", "<|im_end|>"), assistant=("<|im_start|>assistant\n", "<|im_end|>"),
        system=("<|im_start|>system\n", "<|im_end|>"), stop=("<|im_end|>",), default_system=SHANGHAI,
    ),
}  # fmt: skip
BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
BLOCK_PARTS = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.projection_layer",
}  # fmt: skip
EMBEDDINGS = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
CONNECTOR = {"0": "1", "1": "2", "3": "4"}  # their layers, by ours; both have the GELU between the last two


class InternVLChat(ConfigFolder):
    """A folder with `raw` as config.json's content; see `families.VlmFolder`."""

    def config(self) -> ModelConfig:
        raw, where = self.raw, self.where
        for name, value in NEUTRAL.items():
            found = raw.get(name, "v1" if name == "ps_version" else value)
            if found != value:
                raise InputError(f"{where}: {name} {found!r:.40} is not supported; {value!r} is")
        self._template()
        text, vision = self._decoder(), self._vision()
        layer, side = raw.get("select_layer", -1), raw.get("force_image_size")
        if type(layer) is not int or layer >= 0 or not (side is None or (type(side) is int and side > 0)):
            raise InputError(f"{where}: select_layer {layer!r:.40} or force_image_size {side!r:.40} is not supported")
        ratio = raw.get("downsample_ratio", 0.5)
        if not isinstance(ratio, float) or ratio <= 0 or (1 / ratio) % 1:
            raise InputError(f"{where}: downsample_ratio {ratio!r:.40} is not one over a whole number")
        tower = tower_config_from(vision, where, feature_layers=(layer,), drop_first_token=True, image_size=side)
        rows = text.get("vocab_size")
        slot = image_slot(self._tokenizer, SLOT, rows if isinstance(rows, int) else 0, str(self.folder))
        fields = {
            "architecture": "vanilla",
            "decoder": decoder_fields(text, where),
            "vision": asdict(tower),
            "vision_hidden_size": tower.feature_size,
            "connector": {"shuffle": int(1 / ratio), "norm": True},
            "images": {"slot_id": slot, "filter": "bicubic", **self._layout()},
        }
        refuse_absurd({"decoder": fields["decoder"]}, where)
        return validated(ModelConfig, fields, where)

    def weights(self, config: ModelConfig) -> Weights:
        weights: dict[str, LazyTensor] = {}
        tower: dict[str, LazyTensor] = {}
        for name, tensor in folder_weights(self.folder).items():
            part, _, rest = name.partition(".")
            if part == "vision_model":
                tower |= _tower_tensors(rest, tensor)
            elif part == "mlp1":
                module, _, kind = rest.partition(".")
                weights[f"connector.{CONNECTOR.get(module, module)}.{kind}"] = tensor
            else:
                weights[rest if part == "language_model" else name] = tensor
        assert config.vision is not None
        found = tower_weights_from(tower, self._vision(), config.vision, str(self.folder))
        return weights | {f"{TOWER}.{name}": tensor for name, tensor in found.items()}

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return folder_tokenizer(self.folder)

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        template = with_start_token(self._template(), start_token(self.folder), tokenizer, str(self.folder))
        assert config.images is not None
        tags: Tags = TAGS["internvl"] if config.images.thumbnail else {**TAGS["internvl"], "whole": "</img>"}
        return replace(template, image=ImageText(SLOT, template.user[0], "\n", "\n", **tags))

    def _template(self) -> ChatTemplate:
        name = self.raw.get("template")
        if name not in TEMPLATES:
            raise InputError(f"{self.where}: template {name!r:.40} is not supported; {', '.join(TEMPLATES)} are")
        system = self.raw.get("system_message", TEMPLATES[name].default_system)
        if not isinstance(system, str):
            raise InputError(f"{self.where}: system_message is no text")
        return replace(TEMPLATES[name], default_system=system)

    def _decoder(self) -> JsonObject:
        text = part_of_config(self.raw, "llm_config", self.where)
        names = text.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        kind = LANGUAGE_MODELS.get(str(name)) if name else text.get("model_type")
        if kind not in LANGUAGE_MODELS.values():
            said = name or kind
            raise InputError(
                f"{self.where}: llm_config: {said!r:.40} is not supported; {', '.join(LANGUAGE_MODELS)} are"
            )
        return {**DECODERS[str(kind)], **text, "model_type": kind}

    def _vision(self) -> JsonObject:
        """The tower's settings under transformers' names."""
        vision = {**VISION, **part_of_config(self.raw, "vision_config", self.where)}
        return {**vision, "model_type": "internvl_vision", "use_qk_norm": vision["qk_normalization"]}

    def _layout(self) -> JsonObject:
        raw = self.raw
        for name in ("dynamic_image_size", "use_thumbnail", "pad2square"):
            if type(raw.get(name, False)) is not bool:
                raise InputError(f"{self.where}: {name} {raw[name]!r:.40} is neither true nor false")
        if raw.get("dynamic_image_size", False):
            return {
                "strategy": "grid", "thumbnail": raw.get("use_thumbnail", False),
                "least_tiles": raw.get("min_dynamic_patch", 1), "most_tiles": raw.get("max_dynamic_patch", 6),
            }  # fmt: skip
        if raw.get("pad2square", False):
            return {"strategy": "pad", "color": [int(value * 255) for value in IMAGENET_MEAN]}
        return {"strategy": "squash"}


def _tower_tensors(name: str, tensor: LazyTensor) -> dict[str, LazyTensor]:
    """A tensor of the tower under transformers' names; a joined projection as its three parts."""
    block = BLOCK.fullmatch(name)
    if block is None:
        return {EMBEDDINGS.get(name, name): tensor}
    number, inner = block.groups()
    stem = f"encoder.layer.{number}"
    if inner in ("ls1", "ls2"):
        return {f"{stem}.lambda_{inner[-1]}": tensor}
    part, _, kind = inner.rpartition(".")
    if part == "attn.qkv":
        return {f"{stem}.attention.{x}_proj.{kind}": third for x, third in zip("qkv", thirds(tensor), strict=True)}
    return {f"{stem}.{BLOCK_PARTS[part]}.{kind}" if part in BLOCK_PARTS else name: tensor}
