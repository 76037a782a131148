"""What leads from a tower's features into a vanilla model's decoder."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from himix_edge.config.vision import STRICT


@dataclass(frozen=True)
class Connector:
    """LLaVA's two-layer MLP and its relatives.

    Attributes:
        shuffle: squares of so many tokens a side become one, their channels side by side: rows first (SmolVLM,
            Idefics3; InternVL calls it pixel unshuffle).
        norm: a LayerNorm in front (InternVL).
        layers: linear layers, a GELU between two.
        bias: of the linear layers.
        newline: a learned token behind a tile's own, which stands behind each row of a picture (LLaVA-NeXT).
        pool: behind the layers, squares of so many tokens a side become their mean (MobileVLM v2's LDP).
        positions: behind that, a depthwise 3 x 3 convolution over the grid is added (likewise).
    """

    shuffle: Annotated[int, Field(ge=1, le=16)] = 1
    norm: bool = False
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    bias: bool = True
    newline: bool = False
    pool: Annotated[int, Field(ge=1, le=16)] = 1
    positions: bool = False
    __pydantic_config__ = STRICT

    def tokens(self, features: int) -> int:
        """How many embeddings for the decoder come from so many features of the tower."""
        return features // (self.shuffle * self.pool) ** 2 + self.newline
