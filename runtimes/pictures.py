"""Pictures that stand in a model's text, as tiles and tags: read by the decoder once, kept as an ImageKV.

The K/V are those of everything up to the end of the pictures: a system message, tags, tiles. They belong to that system
message and to no other, which `ImageKV.model_id` records.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Engine, Floats
from himix_edge.text import TextProcessor
from himix_edge.tiles import Tiles


@runtime_checkable
class PictureEngine(Engine, Protocol):
    """An engine whose decoder takes features in place of tokens. More shapes: n tiles, T ids."""

    def read(self, token_ids: NDArray[np.int64], features: Floats) -> tuple[Floats, Floats]:
        """Ids (T,) with slots, filled by features (n, N, d_v), from an empty cache -> key and value (L, G, T, h)."""
        ...


def picture_model_id(model_id: str, system: str | None) -> str:
    """What an ImageKV is called that was read behind this system message."""
    return f"{model_id}+{hashlib.sha256(system.encode()).hexdigest()[:16]}" if system else model_id


def read_pictures(
    engine: Engine,
    text: TextProcessor,
    config: ModelConfig,
    pictures: Sequence[Tiles],
    features: Floats,
    system: str | None,
) -> tuple[Floats, Floats]:
    """Key and value (L, G, T, h) of a conversation up to the end of its pictures.

    Args:
        engine: the model's.
        text: the model's.
        config: the model's.
        pictures: the pictures' tiles.
        features: of all tiles, (n, N, d_v).
        system: the system message.

    Raises:
        InputError: they do not fit into the cache, or the runtime takes no pictures in the text.
    """
    if not isinstance(engine, PictureEngine):
        raise InputError("this runtime does not take a model whose pictures stand in the text; open its checkpoint")
    grids = [(tiles.rows, tiles.columns) for tiles in pictures]
    ids = text.encode_pictures(grids, config.tile_tokens, system or "")
    if len(ids) >= engine.capacity:
        count = sum(len(tiles.pixels) for tiles in pictures)
        most = (engine.capacity - 1) * count // len(ids)
        raise InputError(
            f"{count} tiles take {len(ids)} cache slots, this model's context capacity is {engine.capacity}: about "
            f"{most} tiles fit; give fewer or smaller pictures"
        )
    return engine.read(np.array(ids, np.int64), features)
