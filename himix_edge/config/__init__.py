"""Model configuration: frozen dataclasses, validated once where a config.json enters."""

from himix_edge.config.connector import Connector
from himix_edge.config.decoder import DecoderConfig
from himix_edge.config.images import ImageLayout
from himix_edge.config.injection import Injection
from himix_edge.config.model import ModelConfig
from himix_edge.config.rope import RopeScaling
from himix_edge.config.vision import CNNConfig, FastViTConfig, TransformersVisionConfig, VisionConfig, ViTConfig

__all__ = [
    "CNNConfig",
    "Connector",
    "DecoderConfig",
    "FastViTConfig",
    "ImageLayout",
    "Injection",
    "ModelConfig",
    "RopeScaling",
    "TransformersVisionConfig",
    "ViTConfig",
    "VisionConfig",
]
