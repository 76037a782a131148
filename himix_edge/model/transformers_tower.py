"""Towers that run as Hugging Face's own modules: BEiT and Hiera."""

from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.config import TransformersVisionConfig
from himix_edge.errors import BackendMissing, InputError

KINDS = ("beit", "hiera")


class TransformersTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the hidden state after `feature_layer`, (B, N, d_v) float."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TransformersVisionConfig):
        super().__init__()
        self.config = config
        self.inner = _module(config.config)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Mean and deviation in pixel values, and the index tables that the module makes from its configuration."""
        self.register_buffer("mean", torch.tensor(self.config.image_mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(self.config.image_std) * 255, persistent=False)
        tables = {name for name, buffer in self.inner.named_buffers() if buffer.is_meta}
        if tables and not self.mean.is_meta:
            fresh = dict(_module(self.config.config).named_buffers())
            for name in tables:
                parent, _, leaf = name.rpartition(".")
                setattr(self.inner.get_submodule(parent), leaf, fresh[name])

    def forward(self, pixels: Tensor) -> Tensor:
        x = ((pixels.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)
        states = self.inner(x, output_hidden_states=True).hidden_states
        features: Tensor = states[self.config.feature_layer]
        return features[:, 1:] if self.config.drop_first_token else features


def transformers_config(hf_config: dict[str, Any], where: str, **fields: Any) -> TransformersVisionConfig:
    """A configuration whose `num_tokens` and `feature_size` are those of the module, found without computing anything.

    Raises:
        InputError: the module cannot be built from `hf_config`, or has no such feature layer.
        BackendMissing: transformers is not installed.
    """
    draft = TransformersVisionConfig(hf_config, num_tokens=1, feature_size=1, **fields)
    try:
        with torch.device("meta"):
            tower = TransformersTower(draft)
            shape = tower(torch.zeros(1, draft.image_size, draft.image_size, 3, dtype=torch.uint8)).shape
    except BackendMissing:
        raise
    except Exception as error:  # whatever transformers raises for a configuration that is wrong
        raise InputError(
            f"{where}: transformers cannot build this {hf_config.get('model_type')} tower ({error})"
        ) from None
    return TransformersVisionConfig(hf_config, num_tokens=shape[1], feature_size=shape[2], **fields)


def _module(config: dict[str, Any]) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise BackendMissing("transformers", "convert") from None
    kinds = {
        "beit": (transformers.BeitConfig, transformers.BeitModel),
        "hiera": (transformers.HieraConfig, transformers.HieraModel),
    }
    config_type, model_type = kinds[config["model_type"]]
    made = config_type(**{name: value for name, value in config.items() if name != "model_type"})
    made._attn_implementation = "eager"
    module: nn.Module = model_type(made, add_pooling_layer=False)
    if hasattr(module, "layernorm"):
        module.layernorm = nn.Identity()
    return module
