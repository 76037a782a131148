"""nanoVLM (huggingface/nanoVLM): SigLIP, pixel shuffle and a linear layer, SmolLM2; config.json and one safetensors.

Four layouts of pictures, told apart by config.json: the first one (nanoVLM-222M) puts the features in front of
"Question: ... Answer:"; the next asks in a chat, with one picture of one tile; then come tiles with row and column
tags, first without the whole picture and then behind it.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tokenizers import AddedToken, Tokenizer

from himix_edge.checkpoints.chat_templates import declarative, jinja_of, special_tokens, token_text
from himix_edge.checkpoints.families.parts import ConfigFolder, thirds
from himix_edge.checkpoints.families.spare_token import spare_token
from himix_edge.checkpoints.hub import TOKENIZER_FILES, download
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tokenizers import TOKENIZER_SOURCES, folder_tokenizer
from himix_edge.checkpoints.tower_weights import tower_weights_from
from himix_edge.config import ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.image_text import MOST_ROWS, ImageText
from himix_edge.parts import TOWER
from himix_edge.reading import JsonObject, refuse_absurd, validated
from himix_edge.text import ChatTemplate

SIZES = {  # of the decoder, by our names
    "vocab_size": "lm_vocab_size", "hidden_size": "lm_hidden_dim", "intermediate_size": "lm_inter_dim",
    "num_hidden_layers": "lm_n_blocks", "num_attention_heads": "lm_n_heads", "num_key_value_heads": "lm_n_kv_heads",
    "rms_norm_eps": "lm_rms_eps", "rope_theta": "lm_re_base", "max_position_embeddings": "lm_max_position_embeddings",
}  # fmt: skip
VISION_SIZES = {
    "hidden_size": "vit_hidden_dim", "intermediate_size": "vit_inter_dim", "num_hidden_layers": "vit_n_blocks",
    "num_attention_heads": "vit_n_heads", "image_size": "vit_img_size", "patch_size": "vit_patch_size",
    "layer_norm_eps": "vit_ln_eps",
}  # fmt: skip
NEUTRAL = {"vit_cls_flag": False, "lm_attn_scaling": 1.0, "lm_use_tokens": False}
DECODER = {
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj", "attn.v_proj": "self_attn.v_proj", "attn.out_proj": "self_attn.o_proj",
    "mlp.gate_proj": "mlp.gate_proj", "mlp.up_proj": "mlp.up_proj", "mlp.down_proj": "mlp.down_proj",
}  # fmt: skip
VISION = {
    "ln1": "layer_norm1", "ln2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
QUESTION = ChatTemplate(("Question: ", " Answer:"), ("", "<|endoftext|>"), stop=("<|endoftext|>",))  # nanoVLM-222M's
MAX_TOKENS = 1024  # of vlm_extra_tokens


class NanoVLM(ConfigFolder):
    """A folder with `raw` as config.json's content; see `families.VlmFolder`."""

    FIELDS: ClassVar[frozenset[str]] = frozenset({"vit_hidden_dim", "lm_hidden_dim", "mp_pixel_shuffle_factor"})

    def config(self) -> ModelConfig:
        raw, where = self.raw, self.where
        for name, value in NEUTRAL.items():
            if raw.get(name, value) != value:
                raise InputError(f"{where}: {name} {raw[name]!r:.40} is not supported; {value} is")
        wanted = sorted({*SIZES.values(), *VISION_SIZES.values()} - raw.keys())
        if wanted:
            raise InputError(f"{where}: {', '.join(wanted)[:200]} missing")
        decoder = {ours: raw[theirs] for ours, theirs in SIZES.items()}
        decoder |= {"model_type": "llama", "tie_word_embeddings": raw.get("lm_tie_weights", True)}
        vision = {ours: raw[theirs] for ours, theirs in VISION_SIZES.items()}
        fields = {
            "architecture": "vanilla",
            "decoder": decoder_fields(decoder, where),
            "vision": {
                **vision, "hidden_act": "gelu_tanh", "feature_layers": (-1,), "post_norm": True,
                "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0),
            },
            "vision_hidden_size": raw["vit_hidden_dim"],
            "connector": {"shuffle": raw["mp_pixel_shuffle_factor"], "layers": 1, "bias": False},
            "images": {"slot_id": self._slot(), **self._layout()},
        }  # fmt: skip
        refuse_absurd(fields, where)
        config = validated(ModelConfig, fields, where)
        tokens = raw.get("mp_image_token_length", raw.get("IMAGE_TOKEN_LENGTH", config.tile_tokens))
        if tokens != config.tile_tokens:
            raise InputError(f"{where}: mp_image_token_length {tokens!r:.40}; a picture makes {config.tile_tokens}")
        return config

    def weights(self, config: ModelConfig) -> Weights:
        weights: dict[str, LazyTensor] = {}
        tower: dict[str, LazyTensor] = {}
        for name, tensor in folder_weights(self.folder).items():
            part, _, rest = name.partition(".")
            if part == "vision_encoder":
                tower |= _tower_tensors(rest, tensor)
            elif rest != "rotary_embd.inv_freq":
                weights[_decoder_name(name)] = tensor
        table, head = "model.embed_tokens.weight", "lm_head.weight"
        if config.decoder.tie_word_embeddings and table not in weights and head in weights:
            weights[table] = weights.pop(head)  # a tied pair is stored once, under either name
        vision = {"model_type": "idefics3_vision", "image_size": self.raw["vit_img_size"]}
        assert config.vision is not None
        found = tower_weights_from(tower, vision, config.vision, str(self.folder))
        return weights | {f"{TOWER}.{name}": tensor for name, tensor in found.items()}

    def tokenizer(self) -> Tokenizer:
        """That of the folder, or the one that `lm_tokenizer` names on the hub, with `vlm_extra_tokens` at its end."""
        tokenizer = self._tokenizer
        extra = self._extra_tokens()
        if extra:
            tokenizer.add_special_tokens(
                [AddedToken(token, special=True, normalized=False) for token in extra.values()]
            )
        else:
            spare_token(tokenizer, self._rows(), QUESTION, self.where)
        return tokenizer

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        assert config.images is not None
        extra = self._extra_tokens()
        slot = token_text(tokenizer, config.images.slot_id, f"{self.where}: the picture's token")
        if not extra:
            return replace(QUESTION, image=ImageText(slot, "", "", QUESTION.user[0]))
        if slot != extra["image_token"]:
            raise InputError(
                f"{self.where}: lm_base_vocab_size gives {slot!r:.40} the id of {extra['image_token']!r:.40}"
            )
        chat = self.raw.get("lm_chat_template")
        if not isinstance(chat, str):
            raise InputError(f"{self.where}: lm_chat_template {chat!r:.40} is no text")
        template = declarative(jinja_of(chat, special_tokens(self._tokenizer_folder), self.where), tokenizer)
        images = ImageText(slot, template.user[0], "", "")
        if "r1c1" in extra:
            whole = extra.get("global_image_token")
            alone = "<row_1_col_1>{slots}" if whole is None else f"{whole}{{slots}}"
            images = ImageText(
                slot, template.user[0], "", "", "<image: {number}>", alone, tile="<row_{row}_col_{column}>{slots}",
                whole="" if whole is None else alone, whole_first=True,
            )  # fmt: skip
        return replace(template, image=images)

    def _extra_tokens(self) -> dict[str, str]:
        """`vlm_extra_tokens`; {} of nanoVLM-222M, which has none."""
        extra = self.raw.get("vlm_extra_tokens")
        if extra is None:
            return {}
        if not isinstance(extra, dict) or not all(isinstance(token, str) and token for token in extra.values()):
            raise InputError(f"{self.where}: vlm_extra_tokens is no object of texts")
        if len(extra) > MAX_TOKENS or "image_token" not in extra:
            raise InputError(f"{self.where}: vlm_extra_tokens has {len(extra)} tokens, or no image_token")
        return extra

    def _rows(self) -> int:
        rows = self.raw["lm_vocab_size"]
        return rows if type(rows) is int else 0

    def _slot(self) -> int:
        """The added tokens follow the tokenizer's own, in their order."""
        extra = self._extra_tokens()
        if not extra:
            return spare_token(self._tokenizer, self._rows(), QUESTION, self.where)
        base = self.raw.get("lm_base_vocab_size", self._rows() - len(extra))
        if type(base) is not int or not 0 <= base < self._rows():
            raise InputError(f"{self.where}: lm_base_vocab_size {base!r:.40} is not below lm_vocab_size")
        return base + list(extra).index("image_token")

    def _layout(self) -> JsonObject:
        extra, side = self._extra_tokens(), self.raw["vit_img_size"]
        if "r1c1" not in extra:
            return {"strategy": "squash", "filter": "bilinear"}
        longest, enlarge = self.raw.get("max_img_size"), self.raw.get("resize_to_max_side_len", False)
        if type(longest) is not int or type(side) is not int or side < 1 or longest % side or longest < side:
            raise InputError(
                f"{self.where}: max_img_size {longest!r:.40} is not a multiple of vit_img_size {side!r:.40}"
            )
        most = longest // side
        if most > MOST_ROWS:
            raise InputError(f"{self.where}: max_img_size {longest} makes {most} rows of tiles; {MOST_ROWS} at most")
        places = [(row, column) for row in range(1, most + 1) for column in range(1, most + 1)]
        tags = {f"r{row}c{column}": f"<row_{row}_col_{column}>" for row, column in places}
        if bad := next((name for name, tag in tags.items() if extra.get(name) != tag), None):
            raise InputError(f"{self.where}: vlm_extra_tokens: {bad} is {extra.get(bad)!r:.40}, not {tags[bad]}")
        return {
            "strategy": "whole_tiles", "longest": longest, "enlarge": enlarge,
            "thumbnail": "global_image_token" in extra, "whole_first": True,
        }  # fmt: skip

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Without `vlm_extra_tokens`, until `tokenizer` adds them."""
        return folder_tokenizer(self._tokenizer_folder)

    @cached_property
    def _tokenizer_folder(self) -> Path:
        if any((self.folder / name).is_file() for name in TOKENIZER_SOURCES):
            return self.folder
        name = self.raw.get("lm_tokenizer")
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
            raise InputError(f"{self.folder}: no tokenizer.json, and lm_tokenizer {name!r:.40} is no hub id")
        try:
            return download(name, TOKENIZER_FILES)
        except InputError as error:
            raise InputError(f"{self.folder}: no tokenizer.json; copy that of {name} there ({error})") from None


def _decoder_name(name: str) -> str:
    """Ours for a tensor of the decoder or the connector; another one keeps its own and is told as surplus."""
    known: Mapping[str, str] = {
        "MP.proj.weight": "connector.1.weight",
        "decoder.token_embedding.weight": "model.embed_tokens.weight",
        "decoder.norm.weight": "model.norm.weight",
        "decoder.head.weight": "lm_head.weight",
    }
    if block := BLOCK.fullmatch(name.removeprefix("decoder.")):
        number, part, kind = block.groups()
        return f"model.layers.{number}.{DECODER[part]}.{kind}" if part in DECODER else name
    return known.get(name, name)


def _tower_tensors(name: str, tensor: LazyTensor) -> dict[str, LazyTensor]:
    """A tensor of the tower under transformers' names; a joined projection as its three parts."""
    known = {
        "patch_embedding.conv.weight": "embeddings.patch_embedding.weight",
        "patch_embedding.conv.bias": "embeddings.patch_embedding.bias",
        "patch_embedding.position_embedding": "embeddings.position_embedding.weight",
        "layer_norm.weight": "post_layernorm.weight",
        "layer_norm.bias": "post_layernorm.bias",
    }
    if name in known:
        return {known[name]: tensor}
    block = BLOCK.fullmatch(name)
    if block is None:
        return {name: tensor}
    number, part, kind = block.groups()
    stem = f"encoder.layers.{number}"
    if part == "attn.qkv_proj":
        return {f"{stem}.self_attn.{x}_proj.{kind}": third for x, third in zip("qkv", thirds(tensor), strict=True)}
    return {f"{stem}.{VISION[part]}.{kind}" if part in VISION else name: tensor}
