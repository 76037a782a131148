"""Models in the layout of LLaVA's own code and of what is built on it: FastVLM, MobileVLM v2, nanoLLaVA, LLaVA 1.5.

config.json is the decoder's, with `mm_...` settings beside; the tower is one that `mm_vision_tower` names. Its weights
may be among the model's; else they, and in any case its config.json, stand in a folder of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from himix_edge.checkpoints.chat_templates import folder_template
from himix_edge.checkpoints.config_parts import said
from himix_edge.checkpoints.families.parts import tower_folders
from himix_edge.checkpoints.families.spare_token import SpareTokenFolder
from himix_edge.checkpoints.fastvit_weights import fastvit_weights
from himix_edge.checkpoints.hub import download, is_hub_id
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.checkpoints.named_templates import VICUNA_SYSTEM
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tower_config import tower_config_from
from himix_edge.checkpoints.tower_weights import tower_weights_from
from himix_edge.checkpoints.vlm_config import DECODERS
from himix_edge.checkpoints.vlm_layout import PROCESSOR, one_square
from himix_edge.config import FastViTConfig, ModelConfig, VisionConfig
from himix_edge.config.decoder import decoder_fields
from himix_edge.errors import InputError
from himix_edge.parts import TOWER
from himix_edge.reading import JsonObject, read_json, refuse_absurd, validated
from himix_edge.text import ChatTemplate

FASTVITHD = FastViTConfig()
FAST = re.compile(r"mobileclip_l_(\d{1,4})")
KINDS = {  # model_type: the decoder's
    "llava_qwen2": "qwen2", "llava-qwen2": "qwen2", "bunny-qwen2": "qwen2", "mobilevlm": "llama", "llava": "llama",
    "llava_llama": "llama",
}  # fmt: skip
QWEN_2 = ChatTemplate(
    user=("<|im_start|>user\n", "<|im_end|>\n"), assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    system=("<|im_start|>system\n", "<|im_end|>\n"), stop=("<|im_end|>",),
    default_system="You are a helpful assistant.",
)  # fmt: skip
VICUNA_V1 = ChatTemplate(
    user=("USER: ", " "), assistant=("ASSISTANT:", "</s>"), system=("", " "), stop=("</s>",), said=" ",
    default_system=VICUNA_SYSTEM,
)  # fmt: skip
BUNNY = replace(VICUNA_V1, assistant=("ASSISTANT:", "<|endoftext|>"), stop=("<|endoftext|>",))
# what their code asks with; nanoLLaVA (llava-qwen2) has a chat template in its folder
CONVERSATIONS = {
    "llava_qwen2": QWEN_2, "mobilevlm": VICUNA_V1, "llava": VICUNA_V1, "llava_llama": VICUNA_V1, "bunny-qwen2": BUNNY,
}  # fmt: skip
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "mm_use_im_start_end": (False,), "mm_patch_merge_type": ("flat",), "image_grid_pinpoints": ([],),
    "s2": (False,), "use_s2": (False,), "mm_resampler_type": (), "mm_resampler": (), "input_image_size": (),
}  # fmt: skip
PROJECTORS = {  # their modules by ours
    "linear": {"": "0"},
    "mlp2x_gelu": {"0": "0", "2": "2"},
    "ldpnetv2": {"mlp.mlp.0": "0", "mlp.mlp.2": "2", "peg.peg.0": "4.filter"},
}
LDP_SIDE = 12  # tokens along a side behind ldpnetv2
# of towers whose weights may stand among a model's: config.json and preprocessor_config.json
KNOWN_TOWERS: dict[str, tuple[JsonObject, JsonObject]] = {
    "clip-vit-large-patch14-336": (
        {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "resample": 3},
    ),
    "siglip-so400m-patch14-384": (
        {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
        },
        {"size": {"height": 384, "width": 384}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
}  # fmt: skip
INSIDE = "model.vision_tower."


class LlavaOriginal(SpareTokenFolder):
    """A folder with `raw` as config.json's content; see `families.VlmFolder`."""

    def config(self) -> ModelConfig:
        raw, where = self.raw, self.where
        kind = KINDS.get(str(raw.get("model_type")))
        if kind is None:
            raise InputError(
                f"{where}: model_type {raw.get('model_type')!r:.40} with mm_vision_tower is not supported; "
                f"{', '.join(KINDS)} are"
            )
        for name, harmless in NEUTRAL.items():
            if raw.get(name) is not None and raw[name] not in harmless:
                raise InputError(f"{where}: {name} {raw[name]!r:.40} is not supported")
        text = {**DECODERS[kind], **said(raw)}
        text["model_type"] = kind
        tower, layout = self._tower()
        fields = {
            "architecture": "vanilla",
            "decoder": decoder_fields(text, where),
            "vision": asdict(tower),
            "vision_hidden_size": tower.feature_size,
            "connector": self._connector(tower),
            "images": {"slot_id": self._slot, **layout},
        }
        refuse_absurd({"decoder": fields["decoder"]}, where)
        return validated(ModelConfig, fields, where)

    def weights(self, config: ModelConfig) -> Weights:
        modules = PROJECTORS[self._projector()]
        weights: dict[str, LazyTensor] = {}
        inside: dict[str, LazyTensor] = {}
        for name, tensor in self._tensors.items():
            if name.startswith(INSIDE):
                inside[name.removeprefix(INSIDE).removeprefix("vision_tower.")] = tensor
            elif name.startswith("model.mm_projector."):
                module, _, part = name.removeprefix("model.mm_projector.").rpartition(".")
                weights[f"connector.{modules.get(module, module)}.{part}"] = tensor
            else:
                weights[name] = tensor
        assert config.vision is not None
        found = self._tower_weights(inside, config.vision)
        return weights | {f"{TOWER}.{name}": tensor for name, tensor in found.items()}

    @cached_property
    def conversation(self) -> ChatTemplate:
        named = CONVERSATIONS.get(str(self.raw["model_type"]))
        return folder_template(self.folder, self._tokenizer) if named is None else named

    @property
    def embedding_rows(self) -> tuple[object, str]:
        return self.raw.get("vocab_size"), self.where

    def _projector(self) -> str:
        name = self.raw.get("mm_projector_type", "linear")
        if name not in PROJECTORS:
            raise InputError(
                f"{self.where}: mm_projector_type {name!r:.40} is not supported; {', '.join(PROJECTORS)} are"
            )
        return str(name)

    def _connector(self, tower: VisionConfig) -> JsonObject:
        name, side = self._projector(), getattr(tower, "grid", 0)
        if name != "ldpnetv2":
            return {"layers": 1 if name == "linear" else 2}
        if side < LDP_SIDE or side % LDP_SIDE:
            raise InputError(f"{self.where}: ldpnetv2 makes {LDP_SIDE} x {LDP_SIDE} tokens, not of {side} x {side}")
        return {"pool": side // LDP_SIDE, "positions": True}

    def _fast(self) -> re.Match[str] | None:
        return FAST.fullmatch(str(self.raw["mm_vision_tower"]))

    def _tower(self) -> tuple[VisionConfig, JsonObject]:
        """The tower's configuration, and how a picture is cut for it."""
        raw, where = self.raw, self.where
        ratio = raw.get("image_aspect_ratio")
        if ratio not in (None, "square", "pad"):
            raise InputError(f"{where}: image_aspect_ratio {ratio!r:.40} is not supported; pad and square are")
        if fast := self._fast():
            tower = replace(FASTVITHD, image_size=int(fast[1]))
            return tower, {"strategy": "pad" if ratio == "pad" else "crop", "filter": "bicubic"}
        layer, select = raw.get("mm_vision_select_layer", -2), raw.get("mm_vision_select_feature", "patch")
        if type(layer) is not int or layer >= 0 or select not in ("patch", "cls_patch"):
            raise InputError(
                f"{where}: mm_vision_select_layer {layer!r:.40} or mm_vision_select_feature {select!r:.40} is not "
                "supported; numbers from the end are, patch and cls_patch"
            )
        described, settings, there, beside = self._described_tower
        # a class token is dropped, SigLIP has none
        drop = False if select == "cls_patch" else None
        vit = tower_config_from(described, there, settings, beside, feature_layers=(layer,), drop_first_token=drop)
        return vit, one_square(settings, described.get("model_type"), vit, ratio == "pad", beside)

    @cached_property
    def _described_tower(self) -> tuple[JsonObject, JsonObject, str, str]:
        """The tower's config.json and preprocessor_config.json, and where each is."""
        known = KNOWN_TOWERS.get(Path(str(self.raw["mm_vision_tower"])).name)
        if known is not None and any(name.startswith(INSIDE) for name in self._tensors):
            return *known, self.where, self.where
        files = [self._tower_folder / name for name in ("config.json", PROCESSOR)]
        found = []
        for path in files:
            settings = read_json(path)
            if not isinstance(settings, dict):
                raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}")
            found.append(settings)
        return found[0], found[1], str(files[0]), str(files[1])

    @cached_property
    def _tensors(self) -> Weights:
        return folder_weights(self.folder)

    @cached_property
    def _tower_folder(self) -> Path:
        """Inside of the model's folder, under its own name or `vision_tower`, or on the hub."""
        name = str(self.raw["mm_vision_tower"])
        folders = tower_folders(self.folder, name)
        for folder in folders:
            if (folder / "config.json").is_file():
                return folder
        reason = "it is no hub id"
        if is_hub_id(name):
            try:
                return download(name)
            except InputError as error:
                reason = str(error)
        raise InputError(
            f"{self.folder}: its tower {name[:80]} is a folder of its own; copy that to {folders[0]} ({reason})"
        )

    def _tower_weights(self, inside: Weights, config: VisionConfig) -> Weights:
        if isinstance(config, FastViTConfig):
            stripped = {name.removeprefix("model."): tensor for name, tensor in inside.items()}
            return fastvit_weights(stripped, config, str(self.folder))
        described, *_ = self._described_tower
        if inside:
            return tower_weights_from(inside, described, config, str(self.folder))
        folder = self._tower_folder
        return tower_weights_from(folder_weights(folder), described, config, str(folder))
