"""How a picture of any shape becomes square tiles for the tower, and which token stands for their features."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.config.vision import STRICT, Side

Filter = Literal["bilinear", "bicubic", "lanczos"]
SLOT = -1  # in the ids that a decoder reads: an embedding that is given stands here
Byte = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=1, le=64)]


@dataclass(frozen=True)
class ImageLayout:
    """A vanilla model's pictures, as its processor in transformers cuts them. Tiles are as large as the tower's image.

    Attributes:
        slot_id: the token that stands for one feature in the ids.
        strategy: "squash": one tile, each side scaled by its own factor. "pad": one tile, the picture in the middle of
            a square of `color`. "crop": the shorter side scaled to the tile's, its middle taken (CLIP). "rows": the
            longer side scaled to `longest`, both to whole tiles (Idefics3, SmolVLM). "grid": of all grids of
            `least_tiles` to `most_tiles` the one nearest in shape (InternVL). "whole_tiles": each side scaled to whole
            tiles, the shorter one rounded up (nanoVLM). "anyres": of `grids` the one that keeps most of the picture,
            which is scaled to fit and stands in the middle of black; the whole picture, squashed, comes first
            (LLaVA-NeXT, LLaVA-OneVision).
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
        grids: rows and columns, for "anyres"; of equally good ones the first.
        anyres_max: for "anyres": a grid whose embeddings are more than 1.21 times those of so many tiles is scaled
            down to about theirs; 0: none is (LLaVA-NeXT).
        pad_several: for "anyres": pictures of a message with several are one tile each, as "pad" (LLaVA-OneVision).
    """

    slot_id: Annotated[int, Field(ge=0)]
    strategy: Literal["squash", "pad", "crop", "rows", "grid", "whole_tiles", "anyres"] = "squash"
    filter: Filter = "bicubic"
    longest: Side = 2048
    enlarge: bool = False
    split: bool = True
    least_tiles: Count = 1
    most_tiles: Count = 12
    thumbnail: bool = True
    whole_first: bool = False
    color: tuple[Byte, Byte, Byte] = (0, 0, 0)
    grids: Annotated[tuple[tuple[Count, Count], ...], Field(max_length=256)] = ()
    anyres_max: Annotated[int, Field(ge=0, le=64)] = 0
    pad_several: bool = False
    __pydantic_config__ = STRICT

    def most_tiles_of_one(self, side: int) -> int:
        """How many tiles, `side` pixels each, one picture takes the tokens of at most; the whole one counts as one."""
        if self.strategy == "rows" and self.split:
            return math.ceil(self.longest / side) ** 2 + 1
        if self.strategy == "whole_tiles":
            return math.ceil(self.longest / side) ** 2 + self.thumbnail
        if self.strategy == "anyres":
            most = max(rows * columns for rows, columns in self.grids)
            return 1 + (min(most, math.ceil(1.21 * self.anyres_max)) if self.anyres_max else most)
        return self.most_tiles + self.thumbnail if self.strategy == "grid" else 1

    def __post_init__(self) -> None:
        if self.least_tiles > self.most_tiles:
            raise ValueError(f"least_tiles ({self.least_tiles}) is above most_tiles ({self.most_tiles})")
        if (self.strategy == "anyres") != bool(self.grids):
            raise ValueError(f"{self.strategy} with {len(self.grids)} grids; anyres takes them, and nothing else does")
