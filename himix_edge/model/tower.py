"""Every kind of vision tower.

A tower is a module: uint8 image (B, S, S, 3) RGB -> features (B, N, d_v) float, scaling, mean and deviation inside. Its
`reset_buffers()` makes the buffers that come from the configuration anew, after it was built on the meta device.
"""

from torch import nn

from himix_edge.config import CNNConfig, FastViTConfig, TransformersVisionConfig, VisionConfig
from himix_edge.errors import InputError
from himix_edge.model.efficientnet import EfficientNetTower
from himix_edge.model.fastvit import FastViTTower
from himix_edge.model.transformers_tower import TransformersTower, feature_shape
from himix_edge.model.vit import ViTTower


def build_tower(config: VisionConfig) -> nn.Module:
    """A freshly initialised tower.

    Raises:
        InputError: transformers cannot build its module, or that gives other features than the configuration says.
        BackendMissing: its kind needs a package that is not installed.
    """
    if isinstance(config, CNNConfig):
        return EfficientNetTower(config)
    if isinstance(config, FastViTConfig):
        return FastViTTower(config)
    if isinstance(config, TransformersVisionConfig):
        found, said = feature_shape(config, "vision_config"), (config.num_tokens, config.feature_size)
        if found != said:
            raise InputError(f"vision_config: num_tokens, feature_size = {said}, but the module gives {found}")
        return TransformersTower(config)
    return ViTTower(config)
