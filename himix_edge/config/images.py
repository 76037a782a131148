"""How a picture of any shape becomes square tiles for the tower, and which token stands for their features."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.config.vision import STRICT, Side

Filter = Literal["bilinear", "bicubic", "lanczos"]
SLOT = -1  # in the ids that a decoder reads: an embedding that is given stands here
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class ImageLayout:
    """A vanilla model's pictures, as its processor in transformers cuts them. Tiles are as large as the tower's image.

    Attributes:
        slot_id: the token that stands for one feature in the ids.
        strategy: "squash": one tile, each side scaled by its own factor. "pad": one tile, the picture in the middle of
            a square of `color`. "crop": the shorter side scaled to the tile's, its middle taken (CLIP). "rows": the
            longer side scaled to `longest`, both to whole tiles (Idefics3, SmolVLM). "grid": of all grids of
            `least_tiles` to `most_tiles` the one nearest in shape (InternVL). "whole_tiles": each side scaled to whole
            tiles, the shorter one rounded up (nanoVLM).
        filter: of every resizing; that of "whole_tiles" from its tiles to the whole picture is bilinear.
        longest: pixels, for "rows" and "whole_tiles".
        enlarge: for "whole_tiles": whether the longer side becomes `longest` in any case, or is only rounded up.
        split: whether "rows" gives tiles at all, or the whole picture alone.
        least_tiles: for "grid".
        most_tiles: for "grid".
        thumbnail: for "grid" and "whole_tiles": whether the whole picture comes beside its tiles, if there are several.
            "rows" has it always.
        whole_first: whether it comes in front of its tiles, or behind them.
        color: for "pad".
    """

    slot_id: Annotated[int, Field(ge=0)]
    strategy: Literal["squash", "pad", "crop", "rows", "grid", "whole_tiles"] = "squash"
    filter: Filter = "bicubic"
    longest: Side = 2048
    enlarge: bool = False
    split: bool = True
    least_tiles: Annotated[int, Field(ge=1, le=64)] = 1
    most_tiles: Annotated[int, Field(ge=1, le=64)] = 12
    thumbnail: bool = True
    whole_first: bool = False
    color: tuple[Byte, Byte, Byte] = (0, 0, 0)
    __pydantic_config__ = STRICT

    def most_tiles_of_one(self, side: int) -> int:
        """How many tiles, `side` pixels each, one picture becomes at most; the whole picture counts as one."""
        if self.strategy == "rows" and self.split:
            return math.ceil(self.longest / side) ** 2 + 1
        if self.strategy == "whole_tiles":
            return math.ceil(self.longest / side) ** 2 + self.thumbnail
        return self.most_tiles + self.thumbnail if self.strategy == "grid" else 1

    def __post_init__(self) -> None:
        if self.least_tiles > self.most_tiles:
            raise ValueError(f"least_tiles ({self.least_tiles}) is above most_tiles ({self.most_tiles})")
