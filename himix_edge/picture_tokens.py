"""From the embeddings of a picture's tiles to the picture's tokens in the text, in their order, and how many there are.

Most layouts take the tiles as they come. LLaVA-NeXT and LLaVA-OneVision ("anyres") lay them out as one grid, without
what was padding, each row ended by the connector's `newline`, behind the tokens of the whole picture.
"""

import math
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ImageLayout
from himix_edge.errors import InputError
from himix_edge.image_text import Slots
from himix_edge.tiles import Tiles

Floats = NDArray[np.float32]
SLACK = 1.1  # LLaVA-OneVision scales no grid down whose side is less than this too long


def slots(tiles: Tiles, layout: ImageLayout, tokens: int) -> Slots:
    """A picture's place in the text, for `TextProcessor.encode_pictures`.

    Args:
        tiles: the picture's.
        layout: the model's.
        tokens: M, what the connector makes of a tile, see `ModelConfig.tile_tokens`.

    Raises:
        InputError: nothing would be left of a picture's shorter side.
    """
    if layout.strategy != "anyres" or not tiles.rows:
        return Slots(tiles.rows, tiles.columns, tokens)
    side = isqrt(tokens - 1)
    rows, columns = _scaled_down(*_kept(tiles, side), side, layout)
    return Slots(0, 0, side**2 + rows * (columns + 1))


def arrange(tiles: Tiles, layout: ImageLayout, embeddings: Floats) -> Floats:
    """A picture's tokens (t, d) in the text's order, as many as `slots` says.

    Args:
        tiles: the picture's.
        layout: the model's.
        embeddings: float32 (n, M, d), what the connector makes of each tile.
    """
    if layout.strategy != "anyres" or not tiles.rows:
        return embeddings.reshape(-1, embeddings.shape[2])
    side, width = isqrt(embeddings.shape[1] - 1), embeddings.shape[2]
    whole, newline = embeddings[0, :-1], embeddings[0, -1]
    cells = embeddings[1:, :-1].reshape(tiles.rows, tiles.columns, side, side, width)
    grid = cells.swapaxes(1, 2).reshape(tiles.rows * side, tiles.columns * side, width)
    rows, columns = _kept(tiles, side)
    top, left = (grid.shape[0] - rows) // 2, (grid.shape[1] - columns) // 2
    grid = _bilinear(grid[top : top + rows, left : left + columns], *_scaled_down(rows, columns, side, layout))
    ends = np.broadcast_to(newline, (len(grid), 1, width))
    return np.concatenate([whole, np.concatenate([grid, ends], 1).reshape(-1, width)])


def _kept(tiles: Tiles, side: int) -> tuple[int, int]:
    """Rows and columns of the grid that are not padding, as transformers' `unpad_image` counts them."""
    rows, columns = tiles.rows * side, tiles.columns * side
    if tiles.width / tiles.height > columns / rows:
        return rows - 2 * ((rows - int(round(tiles.height * (columns / tiles.width), 7))) // 2), columns
    return rows, columns - 2 * ((columns - int(round(tiles.width * (rows / tiles.height), 7))) // 2)


def _scaled_down(rows: int, columns: int, side: int, layout: ImageLayout) -> tuple[int, int]:
    ratio = math.sqrt(rows * columns / (layout.anyres_max * side**2)) if layout.anyres_max else 0
    if ratio <= SLACK:
        return rows, columns
    scaled = int(rows // ratio), int(columns // ratio)
    if not all(scaled):
        raise InputError(f"a picture of {columns} x {rows} tokens is too long and thin for this model's scaled grid")
    return scaled


def _bilinear(grid: Floats, rows: int, columns: int) -> Floats:
    """A grid (H, W, d) as (rows, columns, d), as torch's `interpolate` does without aligned corners."""
    for axis, count in ((1, columns), (0, rows)):
        length = grid.shape[axis]
        if count == length:
            continue
        centers = (np.arange(count) + 0.5).astype(np.float32) * np.float32(length / count)
        places = np.maximum(centers - np.float32(0.5), 0)
        before = places.astype(np.int64)
        behind = np.minimum(before + 1, length - 1)
        share = np.expand_dims(places - before.astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        grid = grid.take(before, axis) * (1 - share) + grid.take(behind, axis) * share
    return grid
