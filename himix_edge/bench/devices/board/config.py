"""Stands in for `himix_edge.config` on a board: what engines read of a model's configuration, without its validation.

The host has validated it; it sends the numbers.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """`decoder` has the decoder's fields; `vision_rows` as in the real one."""

    decoder: SimpleNamespace
    vision_rows: tuple[int | None, ...]

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "ModelConfig":
        """From {"decoder": fields, "vision_rows": rows}."""
        return ModelConfig(SimpleNamespace(**raw["decoder"]), tuple(raw["vision_rows"]))
