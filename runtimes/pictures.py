"""Pictures that stand in a model's text, as tiles and tags: read by the decoder once, kept as an ImageKV.

The K/V are those of everything up to the end of the pictures: a system message, tags, tiles. They belong to that system
message and to no other, which `ImageKV.model_id` records.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ImageLayout, ModelConfig
from himix_edge.config.images import SLOT
from himix_edge.errors import InputError
from himix_edge.picture_tokens import arrange, slots
from himix_edge.runtimes.engine import Floats, PictureEngine
from himix_edge.text import TextProcessor
from himix_edge.tiles import Tiles

AT_ONCE = 512  # ids that are read together: attention's scores of thousands would take gigabytes


def picture_model_id(model_id: str, system: str | None) -> str:
    """What an ImageKV is called that was read behind this system message."""
    return f"{model_id}+{hashlib.sha256(system.encode()).hexdigest()[:16]}" if system else model_id


def picture_ids(
    text: TextProcessor, config: ModelConfig, pictures: Sequence[Tiles], system: str | None, capacity: int
) -> NDArray[np.int64]:
    """Ids (T,) of a conversation up to the end of its pictures, SLOT for each of their tokens.

    Raises:
        InputError: they do not fit into `capacity` cache slots.
    """
    assert config.images is not None
    places = [slots(tiles, config.images, config.tile_tokens) for tiles in pictures]
    ids = np.array(text.encode_pictures(places, system or ""), np.int64)
    if len(ids) >= capacity:
        count = sum(len(tiles.pixels) for tiles in pictures)
        most = (capacity - 1) * count // len(ids)
        raise InputError(
            f"{count} tiles take {len(ids)} cache slots, this model's context capacity is {capacity}: about "
            f"{most} tiles fit; give fewer or smaller pictures"
        )
    ids[ids == config.images.slot_id] = SLOT
    return ids


def connect_pictures(engine: PictureEngine, layout: ImageLayout, pictures: Sequence[Tiles], features: Floats) -> Floats:
    """Embeddings (slots, d) of what stands in the text for pictures, with features (n, N, d_v) of all their tiles."""
    embeddings = np.concatenate([engine.connect(tile[None]) for tile in features])
    ends = np.cumsum([len(tiles.pixels) for tiles in pictures])
    parts = np.split(embeddings, ends[:-1])
    return np.concatenate([arrange(tiles, layout, part) for tiles, part in zip(pictures, parts, strict=True)])


def read_pictures(
    engine: PictureEngine, config: ModelConfig, ids: NDArray[np.int64], embeddings: Floats
) -> tuple[Floats, Floats]:
    """Key and value (L, G, T, h) of what is read from an empty cache.

    Args:
        engine: the model's; afterwards its cache holds the same.
        config: the model's.
        ids: (T,), see `picture_ids`.
        embeddings: for each SLOT in turn, (slots, d), see `connect_pictures`.

    Raises:
        InputError: more or fewer slots than embeddings.
    """
    given, decoder = ids == SLOT, config.decoder
    if int(given.sum()) != len(embeddings):
        raise InputError(
            f"the text has {int(given.sum())} places for {len(embeddings)} tokens of pictures; what stands around "
            "them (chat_template.image) is not this model's"
        )
    rows = np.zeros((len(ids), embeddings.shape[1]), np.float32)
    rows[given] = embeddings
    nothing = np.zeros((config.num_vision_rows, decoder.num_key_value_heads, 0, decoder.head_dim), np.float32)
    engine.start(nothing, nothing, 0)
    for first in range(0, len(ids), AT_ONCE):
        engine.step(ids[first : first + AT_ONCE], rows[first : first + AT_ONCE])
    return engine.kept()
