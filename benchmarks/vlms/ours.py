"""Times a bundle of a model whose pictures stand in its text: `python -m benchmarks.vlms.ours BUNDLE`."""

import sys
from pathlib import Path

import numpy as np

from benchmarks.timing import milliseconds, report
from benchmarks.vlms.cases import DECODED, PROMPT, TILES, Timings
from himix_edge.runtimes.engine import as_picture_engine
from himix_edge.runtimes.opening import open_session
from himix_edge.runtimes.pictures import connect_pictures, picture_ids, read_pictures
from himix_edge.runtimes.verifying import open_verified
from himix_edge.tiles import Tiles


def timings(folder: Path) -> Timings:
    """Tower and connector, reading of a picture, prompt and token, in milliseconds; pixels are there already."""
    session = open_session(open_verified(folder))
    engine, config = as_picture_engine(session.engine), session.config
    layout = config.images
    assert config.vision is not None
    assert layout is not None
    side, rng = config.vision.image_size, np.random.default_rng(0)
    prompt = np.array(session.text.encode_behind_pictures(PROMPT), np.int64)
    cases: Timings = {}
    for count, (rows, columns) in TILES.items():
        if count > layout.most_tiles_of_one(side):
            continue
        pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        tiles = Tiles(pixels, rows, columns)
        ids = picture_ids(session.text, config, [tiles], None, engine.capacity)

        def tower(tiles: Tiles = tiles) -> np.ndarray:
            features = np.concatenate([engine.encode(tile[None]) for tile in tiles.pixels])
            return connect_pictures(engine, layout, [tiles], features)

        embeddings = tower()
        kept = read_pictures(engine, config, ids, embeddings)

        def read(ids: np.ndarray = ids, embeddings: np.ndarray = embeddings) -> None:
            read_pictures(engine, config, ids, embeddings)
            engine.step(prompt)

        def again(kept: tuple[np.ndarray, np.ndarray] = kept) -> None:
            engine.start(*kept, kept[0].shape[2])
            engine.step(prompt)

        def decode(kept: tuple[np.ndarray, np.ndarray] = kept) -> float:
            again(kept)
            return milliseconds(lambda: [engine.step(prompt[:1]) for _ in range(DECODED)]) / DECODED

        cases |= {
            f"tower, {count} tiles": lambda tower=tower: milliseconds(tower),  # type: ignore[misc]
            f"prefill, {count} tiles": lambda read=read: milliseconds(read),  # type: ignore[misc]
            f"second question, {count} tiles": lambda again=again: milliseconds(again),  # type: ignore[misc]
            f"token, {count} tiles": decode,
        }
    return cases


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
