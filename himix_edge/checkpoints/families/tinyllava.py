"""TinyLLaVA in TinyLLaVA Factory's layout: any decoder of ours, CLIP's or SigLIP's tower, linear layers between them.

What their code takes from elsewhere: a picture is prepared as the tower's own preprocessor_config.json says, which is
not in the folder, and the conversation's mode is an option of the command line. The modes differ in the token that ends
an answer, and that is the tokenizer's.
"""

import re
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from himix_edge.checkpoints.chat_templates import special_tokens
from himix_edge.checkpoints.config_parts import said
from himix_edge.checkpoints.families.llava_original import KNOWN_TOWERS, VICUNA_V1
from himix_edge.checkpoints.families.parts import tower_folders
from himix_edge.checkpoints.families.spare_token import SpareTokenFolder
from himix_edge.checkpoints.hub import download, is_hub_id
from himix_edge.checkpoints.lazy import Weights
from himix_edge.checkpoints.tinyllava_parts import drops_first_token, part_config, part_weights
from himix_edge.checkpoints.tower_config import tower_config_from
from himix_edge.checkpoints.tower_weights import tower_weights_from
from himix_edge.checkpoints.vlm_config import DECODERS, TIED, tied
from himix_edge.checkpoints.vlm_layout import PROCESSOR, one_square
from himix_edge.config import ModelConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.parts import TOWER
from himix_edge.reading import JsonObject, read_json, refuse_absurd, validated
from himix_edge.text import ChatTemplate

LAYERS = re.compile(r"mlp([1-4])x_gelu")
TOWERS = ("clip_vision_model", "siglip_vision_model")
ASPECTS = ("square", "pad")
ADAPTERS = "adapter_config.json"


class TinyLlava(SpareTokenFolder):
    """A folder with `raw` as config.json's content; see `families.VlmFolder`."""

    def config(self) -> ModelConfig:
        raw, where = self.raw, self.where
        if (self.folder / ADAPTERS).exists():
            raise InputError(f"{self.folder / ADAPTERS}: LoRA adapters are not supported; merge them into the model")
        if raw.get("vision_model_name_or_path2"):
            raise InputError(f"{where}: vision_model_name_or_path2: a mixture of two towers is not supported")
        text, there = self._text
        described, beside = part_config(self.folder, raw, "vision_tower")
        kind = described.get("model_type", TOWERS[0])
        if kind not in TOWERS:
            raise InputError(f"{beside}: model_type {kind!r:.40} is not supported; {' and '.join(TOWERS)} are")
        layer, ratio = raw.get("vision_feature_layer", -2), raw.get("image_aspect_ratio", ASPECTS[0])
        if type(layer) is not int or layer >= 0:
            raise InputError(f"{where}: vision_feature_layer {layer!r:.40} is not supported; numbers from the end are")
        if ratio not in ASPECTS:
            raise InputError(f"{where}: image_aspect_ratio {ratio!r:.40} is not supported; square and pad are")
        pixels, prepared = self._prepared
        first = drops_first_token(raw, where)
        tower = tower_config_from(
            self._tower, beside, pixels, prepared, feature_layers=(layer,), drop_first_token=first
        )
        fields = {
            "architecture": "vanilla",
            "decoder": decoder_fields(text, there),
            "vision": asdict(tower),
            "vision_hidden_size": tower.feature_size,
            "connector": {"layers": self._connector()},
            "images": {"slot_id": self._slot, **one_square(pixels, kind, tower, ratio == "pad", prepared)},
        }
        refuse_absurd({"decoder": fields["decoder"]}, there)
        return validated(ModelConfig, fields, where)

    def weights(self, config: ModelConfig) -> Weights:
        assert config.vision is not None
        tower = tower_weights_from(
            part_weights(self.folder, "vision_tower"), self._tower, config.vision, str(self.folder)
        )
        connector = part_weights(self.folder, "connector")
        alone = "0." if config.connector.layers == 1 and connector.keys() <= {"weight", "bias"} else ""
        return {
            **part_weights(self.folder, "language_model"),
            **{f"{TOWER}.{name}": tensor for name, tensor in tower.items()},
            **{f"connector.{alone}{name}": tensor for name, tensor in connector.items()},
        }

    def _connector(self) -> int:
        """How many linear layers."""
        name = self.raw.get("connector_type", "mlp2x_gelu")
        layers = LAYERS.fullmatch(str(name))
        if layers is None and name != "linear":
            raise InputError(
                f"{self.where}: connector_type {name!r:.40} is not supported; linear and mlp1x_gelu to mlp4x_gelu are"
            )
        return int(layers[1]) if layers else 1

    @cached_property
    def _text(self) -> tuple[JsonObject, str]:
        """The decoder's configuration, and where it is. transformers leaves out what is Llama's default."""
        text, where = part_config(self.folder, self.raw, "language_model")
        kind = str(text.get("model_type", "llama"))
        return {"model_type": kind, **DECODERS.get(kind, {}), **said(text), TIED: tied(text, {}, where)}, where

    @cached_property
    def _tower(self) -> JsonObject:
        described, _ = part_config(self.folder, self.raw, "vision_tower")
        return {"model_type": TOWERS[0], **described}

    @cached_property
    def _prepared(self) -> tuple[JsonObject, str]:
        """The tower's preprocessor_config.json, and where it is: in the folder, known by its name, or on the hub."""
        name = str(self.raw.get("vision_model_name_or_path", "")).rpartition(":")[2]
        places = (self.folder, *tower_folders(self.folder, name))
        path = next((place / PROCESSOR for place in places if (place / PROCESSOR).exists()), None)
        if path is None and Path(name).name in KNOWN_TOWERS:
            return KNOWN_TOWERS[Path(name).name][1], self.where
        if path is None:
            path = self._fetched(name) / PROCESSOR
        settings = read_json(path)
        if not isinstance(settings, dict):
            raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}")
        return said(settings), str(path)

    def _fetched(self, name: str) -> Path:
        """A folder with the tower's preprocessor_config.json, from the hub."""
        reason = "it is no hub id"
        if is_hub_id(name):
            try:
                return download(name, (PROCESSOR,))
            except InputError as error:
                reason = str(error)
        raise InputError(f"{self.folder}: no {PROCESSOR}; copy that of its tower {name[:80]} there ({reason})")

    @cached_property
    def conversation(self) -> ChatTemplate:
        end = special_tokens(self.folder).get("eos_token")
        if not end:
            raise InputError(f"{self.folder / 'tokenizer_config.json'}: eos_token is missing; it ends an answer")
        return replace(VICUNA_V1, assistant=(VICUNA_V1.assistant[0], end), stop=(end,))

    @property
    def embedding_rows(self) -> tuple[object, str]:
        text, where = self._text
        return text.get("vocab_size"), where
