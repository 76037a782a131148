"""Write PNGs of every color type, bit depth and filter, interlaced and transparent, and their pixels' hashes by Python.

Usage: python web_demo/tests/odd_pngs.py FOLDER
"""

import hashlib
import json
import random
import struct
import sys
import zlib
from itertools import product
from pathlib import Path

import numpy as np

from himix_edge.preprocess import open_upright

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
SIZES = [(13, 9), (1, 1), (3, 17), (32, 5)]


def png(rng: random.Random, color: int, bits: int, interlaced: bool, transparent: bool, orientation: int) -> bytes:
    """A PNG of random pixels; each row has a random filter."""
    (width, height), samples = rng.choice(SIZES), SAMPLES[color]
    pixels = np.array([rng.randrange(1 << bits) for _ in range(width * height * samples)], np.uint8)
    pixels = pixels.reshape(height, width, samples)
    rows = b""
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = pixels[y::dy, x::dx]
        if part.size:
            rows += filtered(rng, part.reshape(len(part), -1), bits, max(1, samples * bits // 8))
    packed = zlib.compress(rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))]
    if color == 3:
        chunks.append((b"PLTE", rng.randbytes(3 << bits)))
    if transparent:
        clear = rng.randbytes(rng.randrange(1, (1 << bits) + 1)) if color == 3 else pixels[0, 0].astype(">u2").tobytes()
        chunks.append((b"tRNS", clear))
    if orientation:
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
        chunks.append((b"eXIf", b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)))
    half = len(packed) // 2
    chunks += [(b"IDAT", packed[:half]), (b"IDAT", packed[half:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def filtered(rng: random.Random, rows: np.ndarray, bits: int, step: int) -> bytes:
    """Rows of samples, packed, each behind the number of its filter."""
    unpacked = np.unpackbits(rows[..., None], axis=-1)[..., 8 - bits :].reshape(len(rows), -1)
    lines = np.packbits(unpacked, axis=-1).astype(int)
    above, made = np.zeros_like(lines[0]), b""
    for line in lines:
        left, corner = (np.concatenate([np.zeros(step, int), each[:-step]])[: len(line)] for each in (line, above))
        kind = rng.randrange(5)
        guess = [0 * line, left, above, (left + above) // 2, paeth(left, above, corner)][kind]
        made += bytes([kind]) + (line - guess).astype(np.uint8).tobytes()
        above = line
    return made


def paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    candidates = np.stack([left, above, corner])
    return np.take_along_axis(candidates, np.abs(candidates - (left + above - corner)).argmin(0)[None], 0)[0]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng, facts = random.Random(0), {}
    kinds = [(color, bits) for color, depths in DEPTHS.items() for bits in depths]
    for (color, bits), interlaced, transparent in product(kinds, (False, True), (False, True)):
        if transparent and color in (4, 6):
            continue
        content = png(rng, color, bits, interlaced, transparent, rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8]))
        name = f"color-{color}-{bits}-bits{'-interlaced' * interlaced}{'-clear' * transparent}.png"
        (folder / name).write_bytes(content)
        image, _ = open_upright(content)
        digest = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
        facts[name] = {"width": image.width, "height": image.height, "sha256": digest}
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
