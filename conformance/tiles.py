"""Pictures that keep their shape: how each strategy cuts them into tiles, and the pixels of every tile."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.images import Images, digest
from himix_edge.config import ImageLayout
from himix_edge.picture_tokens import arrange, slots
from himix_edge.tiles import load_tiles

SIDE = 3  # cells of a tile's side, where embeddings are laid out
SHAPES = [(2, 2), (1, 2), (2, 1), (1, 3), (3, 1), (3, 3)]
PICTURES = [
    "noisy-64x64.png", "noisy-65x64.png", "noisy-63x127.png", "noisy-1x1.png", "noisy-2x300.png", "noisy-300x2.png",
    "noisy-640x480.png", "noisy-1000x37.png", "noisy-3x200.png", "edges-97x61.png", "photo-31x17.png",
    "photo-64x200.png", "photo-1023x767.png", "exif-6.png", "alpha-tall.png",
]  # fmt: skip
LAYOUTS = [
    (32, ImageLayout(0, "squash", "lanczos")),
    (48, ImageLayout(0, "squash", "bicubic")),
    (31, ImageLayout(0, "pad", "bicubic", color=(122, 116, 104))),
    (32, ImageLayout(0, "pad", "bilinear")),
    (32, ImageLayout(0, "crop", "bicubic")),
    (33, ImageLayout(0, "crop", "bilinear")),
    (32, ImageLayout(0, "rows", "lanczos", longest=128)),
    (64, ImageLayout(0, "rows", "bicubic", longest=100)),
    (32, ImageLayout(0, "rows", "lanczos", longest=128, split=False)),
    (32, ImageLayout(0, "grid", "bicubic", least_tiles=1, most_tiles=6)),
    (28, ImageLayout(0, "grid", "bicubic", least_tiles=1, most_tiles=12, thumbnail=False)),
    (28, ImageLayout(0, "grid", "lanczos", least_tiles=4, most_tiles=9)),
    (32, ImageLayout(0, "whole_tiles", "bicubic", longest=128, whole_first=True)),
    (32, ImageLayout(0, "whole_tiles", "bicubic", longest=128, enlarge=True)),
    (32, ImageLayout(0, "whole_tiles", "lanczos", longest=96, thumbnail=False)),
    (32, ImageLayout(0, "anyres", "bicubic", grids=tuple(SHAPES[:5]))),
    (28, ImageLayout(0, "anyres", "bicubic", grids=tuple(SHAPES), anyres_max=4, pad_several=True)),
]  # fmt: skip


def cases(images: Images) -> Iterator[dict[str, Any]]:
    """The entries of tiles.json; `images` has the pictures already."""
    for size, layout in LAYOUTS:
        for alone in (True, False) if layout.pad_several else (True,):
            for name in PICTURES:
                tiles = load_tiles(images.path(name), size, layout, alone)
                yield {
                    "image": name, "size": size, "layout": dataclasses.asdict(layout), "alone": alone,
                    "rows": tiles.rows, "columns": tiles.columns, "tiles": [digest(tile) for tile in tiles.pixels],
                    "sha256": digest(tiles.pixels),
                }  # fmt: skip


def arranged(images: Images) -> Iterator[dict[str, Any]]:
    """The entries of arranged.json: what embeddings of one number each become in the text, where tiles are one grid."""
    rng = np.random.default_rng(5)
    for size, layout in LAYOUTS:
        if layout.strategy == "anyres":
            for name in PICTURES:
                tiles = load_tiles(images.path(name), size, layout)
                given = rng.standard_normal((len(tiles.pixels), SIDE**2 + 1, 1)).astype(np.float32)
                expected = arrange(tiles, layout, given)
                yield {
                    "image": name, "size": size, "layout": dataclasses.asdict(layout),
                    "rows": tiles.rows, "columns": tiles.columns, "slots": slots(tiles, layout, SIDE**2 + 1).tokens,
                    "embeddings": given[..., 0].tolist(), "expected": expected[:, 0].tolist(),
                }  # fmt: skip
