"""The models: one decoder, one tower, and the two ways (HiMix, vanilla) to let the image into the decoder."""

from himix_edge.model.decoder import KVCache
from himix_edge.model.vlm import HiMixModel, VanillaModel, VisionLanguageModel, build_model

__all__ = ["HiMixModel", "KVCache", "VanillaModel", "VisionLanguageModel", "build_model"]
