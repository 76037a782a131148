"""A bundle's token ids for its self-test and for questions about real images. Also runs on its own, on any CPU:

    python benchmarks/answers.py BUNDLE

prints the result of the self-test and the token ids as JSON. It needs this package and the bundle's runtime only.
"""

import json
import sys
from pathlib import Path

import himix_edge
from himix_edge.bundle import read_manifest
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.selftest import self_test

IMAGES = Path(himix_edge.__file__).parent / "assets" / "probe"
CAPTIONS, MAX_NEW_TOKENS = 3, 12


def questions(bundle: Path) -> list[tuple[str, Path]]:
    """Prompts and image files: the bundle's self-test first, then captions of images that ship with the package."""
    test = read_manifest(bundle).selftest
    images = sorted(IMAGES.glob("*.png"))[:CAPTIONS]
    return [(test.prompt, bundle / test.image), *(("Describe the image.", image) for image in images)]


def answers(bundle: Path) -> list[list[int]]:
    """Greedy token ids, at most MAX_NEW_TOKENS, of every question in the bundle's own runtime."""
    session = open_bundle(bundle)
    return [
        [
            piece.token_id
            for piece in session.generate(prompt, image, max_new_tokens=MAX_NEW_TOKENS, temperature=0)
            if piece.token_id is not None
        ]
        for prompt, image in questions(bundle)
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps({"self_test": self_test(folder, open_bundle(folder))["passed"], "token_ids": answers(folder)}))
