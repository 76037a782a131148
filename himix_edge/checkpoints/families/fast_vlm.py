"""FastVLM in transformers' layout (`fast_vlm`, from 4.58 on): LLaVA's, around timm's module of FastViTHD."""

import re
from dataclasses import asdict, replace

from tokenizers import Tokenizer

from himix_edge.checkpoints.config_parts import part_of_config
from himix_edge.checkpoints.families import llava_original
from himix_edge.checkpoints.families.parts import ConfigFolder
from himix_edge.checkpoints.fastvit_weights import fastvit_weights
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tokenizers import folder_tokenizer
from himix_edge.checkpoints.vlm_config import DECODERS, tied
from himix_edge.checkpoints.vlm_layout import PROCESSOR, layout_of, processor_of, whole
from himix_edge.checkpoints.vlm_text import vlm_template
from himix_edge.config import FastViTConfig, ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.parts import TOWER
from himix_edge.reading import JsonObject, refuse_absurd, validated
from himix_edge.text import ChatTemplate

ONLY = {
    "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
VISION_ONLY = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3"}
PLACES = {
    "model.language_model.": "model.", "model.multi_modal_projector.linear_1.": "connector.0.",
    "model.multi_modal_projector.linear_2.": "connector.2.",
}  # fmt: skip
EYES = "model.vision_tower.timm_model."
STAGE = re.compile(r"stages\.(\d{1,2})\.(.+)")
RENAMED = (
    (re.compile(r"^downsample\.proj\.0\.reparam_conv\."), "proj.0.lkb_reparam."),
    (re.compile(r"^downsample\.proj\."), "proj."),
    (re.compile(r"^pos_emb\."), ""),
    (re.compile(r"^blocks\."), ""),
    (re.compile(r"\.mlp\."), ".convffn."),
    (re.compile(r"\.gamma$"), ""),
)
ELSEWHERE = (
    (re.compile(r"^stem\."), "patch_embed."),
    (re.compile(r"^final_conv\.se\.fc1\."), "conv_exp.se.reduce."),
    (re.compile(r"^final_conv\.se\.fc2\."), "conv_exp.se.expand."),
    (re.compile(r"^final_conv\."), "conv_exp."),
)


class FastVlm(ConfigFolder):
    """A folder with `raw` as config.json's content; see `families.VlmFolder`."""

    def config(self) -> ModelConfig:
        raw, where = self.raw, self.where
        text = part_of_config(raw, "text_config", where)
        vision = part_of_config(raw, "vision_config", where)
        for part, wanted in ((raw, ONLY), (vision, VISION_ONLY)):
            for name, value in wanted.items():
                if part.get(name, value) != value:
                    raise InputError(f"{where}: {name} {part[name]!r:.40} is not supported; {value} is")
        kind = str(text.get("model_type", "qwen2"))
        text = {"model_type": kind, **DECODERS.get(kind, {}), **text}
        text["tie_word_embeddings"] = tied(raw, text, where)
        rows = text.get("vocab_size")
        most = rows - 1 if isinstance(rows, int) else 0
        slot = raw.get("image_token_id", raw.get("image_token_index", 151646))
        tower, layout = self._seen()
        fields = {
            "architecture": "vanilla",
            "decoder": decoder_fields(text, where),
            "vision": asdict(tower),
            "vision_hidden_size": tower.feature_size,
            "connector": {"bias": raw.get("multimodal_projector_bias", True)},
            "images": {"slot_id": whole(slot, "image_token_id", most, where, least=0), **layout},
        }
        refuse_absurd({"decoder": fields["decoder"]}, where)
        return validated(ModelConfig, fields, where)

    def weights(self, config: ModelConfig) -> Weights:
        weights: dict[str, LazyTensor] = {}
        eyes: dict[str, LazyTensor] = {}
        assert isinstance(config.vision, FastViTConfig)
        for name, tensor in folder_weights(self.folder).items():
            if name.startswith(EYES):
                eyes[authors_name(name.removeprefix(EYES), config.vision)] = tensor
                continue
            place = next((place for place in PLACES if name.startswith(place)), "")
            weights[PLACES[place] + name.removeprefix(place) if place else name] = tensor
        found = fastvit_weights(eyes, config.vision, str(self.folder))
        return weights | {f"{TOWER}.{name}": tensor for name, tensor in found.items()}

    def tokenizer(self) -> Tokenizer:
        return folder_tokenizer(self.folder)

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        return vlm_template(self.folder, self.raw, config, tokenizer)

    def _seen(self) -> tuple[FastViTConfig, JsonObject]:
        """The tower, as large as what the processor gives it, and how a picture is cut."""
        there = str(self.folder / PROCESSOR)
        pixels = processor_of(self.folder, "fast_vlm")
        crop = pixels.get("crop_size")
        side = whole(crop.get("height") if isinstance(crop, dict) else crop, "crop_size", 4096, there)
        if pixels.get("do_normalize", True) and [pixels.get("image_mean"), pixels.get("image_std")] != [
            [0] * 3,
            [1] * 3,
        ]:
            raise InputError(f"{there}: image_mean or image_std is not supported; 0 and 1 are")
        tower = replace(llava_original.FASTVITHD, image_size=side)
        return tower, layout_of(self.raw, pixels, side, self.folder)


def authors_name(name: str, config: FastViTConfig) -> str:
    """Apple's name for a tensor of timm's module, where each stage has its downsampling and positions inside."""
    stage = STAGE.fullmatch(name)
    if stage is None:
        for pattern, theirs in ELSEWHERE:
            name = pattern.sub(theirs, name)
        return name
    index, inner = int(stage[1]), stage[2]
    first = len(config.depths) - config.attention_stages
    place = 2 * index + max(0, index - first + 1)  # of its blocks: behind all downsamplings and positions so far
    if inner.startswith("pos_emb."):
        place -= 1
    elif inner.startswith("downsample."):
        place -= 1 + (index >= first)
    for pattern, theirs in RENAMED:
        inner = pattern.sub(theirs, inner)
    return f"network.{place}.{inner}"
