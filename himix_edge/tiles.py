"""From an image file to the square tiles of a model whose pictures keep their shape, see `config.ImageLayout`.

The pixels are those of transformers' own processors (Idefics3, SmolVLM, CLIP and LLaVA, LLaVA-NeXT and LLaVA-OneVision,
GOT-OCR2 and InternVL) and of nanoVLM's on Pillow before version 13: the image made RGB as `himix_edge.preprocess` says,
each resizing rounded to 8 bits, the horizontal pass first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himix_edge.config import ImageLayout
from himix_edge.errors import InputError
from himix_edge.preprocess import ImageSource, open_upright, resize_to

Scale = Callable[[Image.Image, int, int], Image.Image]
MAX_SIDE = 4096  # Idefics3's processor goes no further
MAX_SCALED_PIXELS = 64 << 20
MAX_PADDED_PIXELS = 256 << 20  # of the square around a picture: 1 GiB
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Tiles:
    """A picture's tiles: uint8 (n, S, S, 3) RGB, row by row, the whole picture where it comes beside them.

    `rows` and `columns` are those of the grid; 0 where there is the whole picture alone. `width` and `height` are the
    picture's own, in pixels.
    """

    pixels: NDArray[np.uint8]
    rows: int = 0
    columns: int = 0
    width: int = 1
    height: int = 1


def load_tiles(image: ImageSource, size: int, layout: ImageLayout, alone: bool = True) -> Tiles:
    """Read an image and cut it as `layout` says.

    Args:
        image: as `load_image` takes it.
        size: S, the side of a tile in pixels.
        layout: the model's.
        alone: whether it is the only picture of its message, see `ImageLayout.pad_several`.

    Raises:
        InputError: as `load_image`; also a picture so long and thin that no grid of tiles holds it.
    """
    picture, where = open_upright(image)
    return cut_tiles(picture, size, layout, where, alone)


def cut_tiles(picture: Image.Image, size: int, layout: ImageLayout, where: str = "image", alone: bool = True) -> Tiles:
    """An upright RGB picture as `load_tiles` cuts it; errors as there, naming `where`."""
    method = FILTERS[layout.filter]

    thin = InputError(f"{where}: {picture.width} x {picture.height} pixels are too long and thin for this model")

    def scaled(image: Image.Image, width: int, height: int) -> Image.Image:
        if max(width * image.height, width * height) > MAX_SCALED_PIXELS:
            raise thin
        return resize_to(image, width, height, method)

    if layout.strategy == "rows":
        return _rows(picture, size, layout, scaled)
    if layout.strategy == "grid":
        return _grid(picture, size, layout, scaled)
    if layout.strategy == "whole_tiles":
        return _whole_tiles(picture, size, layout, scaled)
    padded = layout.strategy == "pad" or (layout.pad_several and not alone)
    if layout.strategy == "anyres" and not padded:
        return _anyres(picture, size, layout, scaled)
    if padded:
        side = max(picture.size)
        if side * side > MAX_PADDED_PIXELS:
            raise thin
        square = Image.new("RGB", (side, side), layout.color)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    elif layout.strategy == "crop":
        short = min(picture.size)
        longer = int(size * max(picture.size) / short)
        width, height = (size, longer) if picture.width == short else (longer, size)
        picture = _center(scaled(picture, width, height), size)
    return Tiles(np.asarray(scaled(picture, size, size), np.uint8)[None])


def _center(picture: Image.Image, size: int) -> Image.Image:
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _rows(picture: Image.Image, size: int, layout: ImageLayout, scaled: Scale) -> Tiles:
    """Idefics3's: see `Idefics3ImageProcessor.resize`, `resize_for_vision_encoder` and `split_image`."""
    width, height = _longest(picture.width, picture.height, layout.longest)
    picture = scaled(picture, width, height)
    if not layout.split:
        return Tiles(np.asarray(scaled(picture, size, size), np.uint8)[None])
    ratio = width / height
    if width >= height:
        width = math.ceil(width / size) * size
        height = math.ceil(int(width / ratio) / size) * size
    else:
        height = math.ceil(height / size) * size
        width = math.ceil(int(height * ratio) / size) * size
    picture = scaled(picture, width, height)
    if width == height == size:
        return Tiles(np.asarray(picture, np.uint8)[None])
    tiles = _cut(picture, size)
    whole = scaled(picture, size, size)
    return Tiles(np.stack([*tiles, np.asarray(whole, np.uint8)]), height // size, width // size)


def _longest(width: int, height: int, longest: int) -> tuple[int, int]:
    """Sides with the longer one `longest` pixels, the other even; no longer than the processor's own limit."""
    ratio = width / height
    if width >= height:
        width, height = longest, _even(int(longest / ratio))
    else:
        width, height = _even(int(longest * ratio)), longest
    width, height = max(width, 1), max(height, 1)
    return min(width, MAX_SIDE), min(height, MAX_SIDE)


def _even(side: int) -> int:
    return side + side % 2


def _grid(picture: Image.Image, size: int, layout: ImageLayout, scaled: Scale) -> Tiles:
    """InternVL's: see `GotOcr2ImageProcessor.crop_image_to_patches`."""
    columns, rows = best_grid(picture.width, picture.height, size, layout.least_tiles, layout.most_tiles)
    tiles = _cut(scaled(picture, columns * size, rows * size), size)
    if len(tiles) == 1:
        return Tiles(np.stack(tiles))
    if layout.thumbnail:
        tiles.append(np.asarray(scaled(picture, size, size), np.uint8))
    return Tiles(np.stack(tiles), rows, columns)


def _anyres(picture: Image.Image, size: int, layout: ImageLayout, scaled: Scale) -> Tiles:
    """LLaVA-NeXT's: see `LlavaNextImageProcessor.get_image_patches`."""
    rows, columns = fullest_grid(picture.width, picture.height, size, layout.grids)
    width, height = columns * size, rows * size
    wide, high = width / picture.width, height / picture.height
    if wide < high:
        inner = (width, min(math.ceil(picture.height * wide), height))
    else:
        inner = (min(math.ceil(picture.width * high), width), height)
    canvas = scaled(Image.new("RGB", (1, 1)), width, height)  # black, and refused where it is too large
    canvas.paste(scaled(picture, *inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    tiles = [np.asarray(scaled(picture, size, size), np.uint8), *_cut(canvas, size)]
    return Tiles(np.stack(tiles), rows, columns, picture.width, picture.height)


def fullest_grid(width: int, height: int, size: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of `grids`, in rows and columns, the one in which most pixels of the picture count, and fewest are padding.

    See transformers' `select_best_resolution`.
    """
    best, most, least_waste = grids[0], 0, math.inf
    for rows, columns in grids:
        scale = min(columns * size / width, rows * size / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        waste = rows * columns * size * size - kept
        if kept > most or (kept == most and waste < least_waste):
            best, most, least_waste = (rows, columns), kept, waste
    return best


def best_grid(width: int, height: int, size: int, least: int, most: int) -> tuple[int, int]:
    """Columns and rows of `least` to `most` tiles, nearest in shape; of equally near ones the larger that is filled."""
    grids = [(x, y) for x in range(1, most + 1) for y in range(1, most + 1) if least <= x * y <= most]
    best, nearest = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        filled = width * height > 0.5 * size * size * columns * rows
        if difference < nearest or (difference == nearest and filled):
            best, nearest = (columns, rows), difference
    return best


def _whole_tiles(picture: Image.Image, size: int, layout: ImageLayout, scaled: Scale) -> Tiles:
    """nanoVLM's: see `DynamicResize` and `GlobalAndSplitImages`, which leaves the whole picture unrounded."""
    longer, shorter = max(picture.size), min(picture.size)
    long = layout.longest if layout.enlarge else min(layout.longest, math.ceil(longer / size) * size)
    short = max(math.ceil(shorter * (long / longer) / size), 1) * size
    width, height = (long, short) if picture.width >= picture.height else (short, long)
    picture = scaled(picture, width, height)
    tiles = _cut(picture, size)
    rows, columns = height // size, width // size
    if not layout.thumbnail:
        return Tiles(np.stack(tiles), rows, columns)
    if len(tiles) == 1:
        return Tiles(np.stack(tiles))
    whole = np.asarray(resize_to(picture, size, size, Image.Resampling.BILINEAR), np.uint8)
    return Tiles(np.stack([whole, *tiles] if layout.whole_first else [*tiles, whole]), rows, columns)


def _cut(picture: Image.Image, size: int) -> list[NDArray[np.uint8]]:
    pixels = np.asarray(picture, np.uint8)
    return [
        pixels[top : top + size, left : left + size]
        for top in range(0, picture.height, size)
        for left in range(0, picture.width, size)
    ]
