"""Vision-language models of others: Hugging Face's layout of many families, and a file for each that has its own.

`open_vlm` tells them apart by config.json. Adding one: a class with the methods of `VlmFolder`, and a line there.
"""

from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from himix_edge.checkpoints.families.fast_vlm import FastVlm
from himix_edge.checkpoints.families.internvl_chat import InternVLChat
from himix_edge.checkpoints.families.llava_original import LlavaOriginal
from himix_edge.checkpoints.families.nanovlm import NanoVLM
from himix_edge.checkpoints.families.parts import ConfigFolder
from himix_edge.checkpoints.families.tinyllava import TinyLlava
from himix_edge.checkpoints.lazy import Weights
from himix_edge.checkpoints.tinyllava_parts import is_tinyllava
from himix_edge.checkpoints.tokenizers import folder_tokenizer
from himix_edge.checkpoints.vlm_config import is_vlm, vlm_config
from himix_edge.checkpoints.vlm_text import vlm_template
from himix_edge.checkpoints.vlm_weights import vlm_weights
from himix_edge.config import ModelConfig
from himix_edge.text import ChatTemplate


class VlmFolder(Protocol):
    """A folder of somebody's vision-language model. Every method raises InputError for what is not supported."""

    def config(self) -> ModelConfig:
        """The whole model's configuration."""
        ...

    def weights(self, config: ModelConfig) -> Weights:
        """The folder's tensors under this project's names."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the token that stands for a picture's features."""
        ...

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        """What stands around messages and pictures."""
        ...


class HuggingFaceVlm(ConfigFolder):
    """A folder as transformers' own classes write it: see `vlm_config`, `vlm_weights` and `vlm_text`."""

    def config(self) -> ModelConfig:
        return vlm_config(self.folder, self.raw)

    def weights(self, config: ModelConfig) -> Weights:
        return vlm_weights(self.folder, self.raw, config)

    def tokenizer(self) -> Tokenizer:
        return folder_tokenizer(self.folder)

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        return vlm_template(self.folder, self.raw, config, tokenizer)


def open_vlm(folder: Path, raw: object) -> VlmFolder | None:
    """The reader for a folder with `raw` as config.json's content; None if that is no vision-language model's."""
    if not isinstance(raw, dict):
        return None
    if raw.keys() >= NanoVLM.FIELDS:
        return NanoVLM(folder, raw)
    if raw.get("model_type") == "internvl_chat":
        return InternVLChat(folder, raw)
    if raw.get("model_type") == "fast_vlm":
        return FastVlm(folder, raw)
    if is_tinyllava(raw):
        return TinyLlava(folder, raw)
    if "mm_vision_tower" in raw:
        return LlavaOriginal(folder, raw)
    return HuggingFaceVlm(folder, raw) if is_vlm(raw) else None
