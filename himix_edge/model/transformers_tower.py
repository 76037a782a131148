"""Towers that run as Hugging Face's own modules: BEiT and Hiera."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor, nn

from himix_edge import extras
from himix_edge.config import TransformersVisionConfig
from himix_edge.errors import BackendMissing, InputError
from himix_edge.model.meta import meta_device, register_pixel_norm

KINDS = ("beit", "hiera")


class TransformersTower(nn.Module):
    """uint8 image (B, S, S, 3) RGB -> the hidden state after `feature_layer`, (B, N, d_v) float."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TransformersVisionConfig):
        super().__init__()
        self.config = config
        self.inner = _module(config)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Mean and deviation in pixel values, and the index tables that the module makes from its configuration."""
        register_pixel_norm(self, self.config.image_mean, self.config.image_std)
        tables = {name for name, buffer in self.inner.named_buffers() if buffer.is_meta}
        if tables and not self.mean.is_meta:
            fresh = dict(_module(self.config).named_buffers())
            for name in tables:
                parent, _, leaf = name.rpartition(".")
                setattr(self.inner.get_submodule(parent), leaf, fresh[name])

    def forward(self, pixels: Tensor) -> Tensor:
        x = ((pixels.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)
        features: Tensor = self.inner(x, return_dict=True).last_hidden_state
        return features[:, 1:] if self.config.drop_first_token else features


def transformers_config(draft: TransformersVisionConfig, where: str) -> TransformersVisionConfig:
    """The configuration with the `num_tokens` and `feature_size` of its module.

    Raises:
        InputError: the module cannot be built from `draft.config`, or has no such feature layer.
        BackendMissing: transformers is not installed.
    """
    tokens, size = feature_shape(draft, where)
    return replace(draft, num_tokens=tokens, feature_size=size)


def feature_shape(config: TransformersVisionConfig, where: str) -> tuple[int, int]:
    """(N, d_v) of the features, found without computing anything. Raises as `transformers_config` does."""
    try:
        with meta_device():
            tower = TransformersTower(config)
            shape = tower(torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)).shape
    except BackendMissing:
        raise
    except Exception as error:  # whatever transformers raises for a configuration that is wrong
        kind = config.config.get("model_type")
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: transformers cannot build this {kind} tower ({reason})") from None
    return int(shape[1]), int(shape[2])


def _module(config: TransformersVisionConfig) -> nn.Module:
    """Embeddings and the blocks (of Hiera: stages) up to the feature layer; what would never run is left out."""
    with extras.needed("transformers", extras.CONVERT):
        import transformers
    kinds = {
        "beit": (transformers.BeitConfig, transformers.BeitModel),
        "hiera": (transformers.HieraConfig, transformers.HieraModel),
    }
    config_type, model_type = kinds[str(config.config["model_type"])]
    own = inspect.signature(config_type).parameters  # others change no module, but num_labels makes a table
    made = config_type(**{name: value for name, value in config.config.items() if name in own})
    made._attn_implementation = "eager"
    module = model_type(made, add_pooling_layer=False)
    blocks = "layer" if hasattr(module.encoder, "layer") else "stages"
    built: nn.ModuleList = getattr(module.encoder, blocks)
    if not -len(built) <= config.feature_layer <= -1:
        raise ValueError(f"feature_layer {config.feature_layer} must be in -{len(built)}..-1")
    setattr(module.encoder, blocks, built[: len(built) + 1 + config.feature_layer])
    if hasattr(module, "layernorm"):
        module.layernorm = nn.Identity()
    if getattr(module.embeddings, "mask_token", None) is not None:
        module.embeddings.mask_token = None
    inner: nn.Module = module
    return inner
