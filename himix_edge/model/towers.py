"""Every kind of vision tower: uint8 image (B, S, S, 3) RGB -> features (B, N, d_v)."""

from typing import Protocol

from torch import Tensor, nn

from himix_edge.config import CNNConfig, TransformersVisionConfig, VisionConfig
from himix_edge.model.vit import ViTTower


class Tower(Protocol):
    """What every tower offers beside being an nn.Module."""

    config: VisionConfig

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) RGB -> float (B, N, d_v); scaling, mean and deviation are inside."""
        ...

    def reset_buffers(self) -> None:
        """Make the buffers that come from the configuration anew, for a tower built on the meta device."""
        ...


def build_tower(config: VisionConfig) -> nn.Module:
    """A freshly initialised tower. Raises BackendMissing if its kind needs a package that is not installed."""
    if isinstance(config, CNNConfig):
        from himix_edge.model.efficientnet import EfficientNetTower

        return EfficientNetTower(config)
    if isinstance(config, TransformersVisionConfig):
        from himix_edge.model.transformers_tower import TransformersTower

        return TransformersTower(config)
    return ViTTower(config)
