"""A bundle's self-test: one image, one prompt, the exact answer it has to give on any device."""

import hashlib
from pathlib import Path

from himix_edge.bundle import read_manifest
from himix_edge.preprocess import load_image
from himix_edge.runtimes.session import Session
from himix_edge.tiles import load_tiles


def self_test(folder: Path, session: Session) -> dict[str, str | bool]:
    """Run it in a session of the bundle in `folder`.

    Returns:
        pixels: "equal" or "differ" (the resized image against its digest); answer and expected: texts;
        passed: whether pixels and token ids are exactly the expected ones; of an answer that the model itself is not
        sure of, the pixels alone.

    Raises:
        InputError: the manifest or the image cannot be read, or the runtime fails.
    """
    test = read_manifest(folder).selftest
    assert session.config.vision is not None
    vision = session.config.vision
    layout, image = session.config.images, folder / test.image
    if layout is None:
        pixels = load_image(image, vision.image_size, vision.resample)
    else:
        pixels = load_tiles(image, vision.image_size, layout).pixels
    same_pixels = hashlib.sha256(pixels.tobytes()).hexdigest() == test.pixels_sha256
    limit = len(test.token_ids) + test.ends
    pieces = list(session.generate(test.prompt, folder / test.image, max_new_tokens=limit, temperature=0))
    tokens = [piece.token_id for piece in pieces]
    return {
        "pixels": "equal" if same_pixels else "differ",
        "answer": "".join(piece.text for piece in pieces),
        "expected": test.text,
        "passed": same_pixels and test.accepts(tokens),
    }
