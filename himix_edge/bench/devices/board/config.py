"""Stands in for `himix_edge.config` on a board: what engines read of a model's configuration, without its validation.

The host has validated it; it sends the numbers.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """`decoder` has the decoder's fields; the others are as in the real one. Boards take no pictures in the text."""

    decoder: SimpleNamespace
    vision: SimpleNamespace  # image_size, num_tokens, feature_size
    vision_rows: tuple[int | None, ...]
    layers_without_image: tuple[int, ...]
    images: None = None

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "ModelConfig":
        """From {"decoder": fields, "vision": fields, "vision_rows": rows, "layers_without_image": numbers}."""
        decoder, vision = (SimpleNamespace(**raw[part]) for part in ("decoder", "vision"))
        return ModelConfig(decoder, vision, tuple(raw["vision_rows"]), tuple(raw["layers_without_image"]))
