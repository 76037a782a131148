"""Image files of many kinds, and their pixels: as they are stored, upright over white, and resized.

Every image is a file and, for a client that has no decoder at hand, its stored pixels without a header.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from himix_edge.config.vision import Resample
from himix_edge.preprocess import load_image

ORIENTATION = 0x0112  # EXIF's tag
LARGE = 500_000  # pixels: from here on each filter is tried with one size only
SIZES = (64, 1, 7, 224, 256)
LOSSY = (64, 224)
FILTERS: tuple[Resample, ...] = ("bilinear", "bicubic")
NOISY = [(64, 64), (65, 64), (64, 65), (63, 127), (1, 1), (2, 300), (300, 2), (128, 128), (640, 480), (517, 1031),
         (3, 200), (97, 61), (1000, 37), (50, 51)]  # fmt: skip
PHOTOS = [(640, 480), (1023, 767), (2400, 1800), (200, 3), (1, 1), (64, 64), (31, 17), (64, 200), (300, 64), (224, 224)]


class Images:
    """Writes images into `out` and collects what images.json says of each."""

    def __init__(self, out: Path):
        self.out = out
        self.facts: dict[str, dict[str, Any]] = {}
        for folder in ("images", "raw", "pixels"):
            (out / folder).mkdir()

    def save(self, name: str, image: Image.Image, resized: bool = False, **options: Any) -> None:
        """Write one image by Pillow; the ending says in which format. Others as in `add`."""
        image.save(self.path(name), **options)
        self.add(name, resized)

    def add(self, name: str, resized: bool = False) -> None:
        """State the facts of a file that is at `path(name)`; with `resized`, the pixels of every size too."""
        with Image.open(self.path(name)) as image:
            mode, orientation = image.mode, image.getexif().get(ORIENTATION, 1)
            transparent = "A" in image.getbands() or "transparency" in image.info
            stored = image.convert("RGBA" if transparent else "RGB")
        (self.out / "raw" / name).write_bytes(stored.tobytes())
        upright = _upright(stored, orientation)
        lossless = not name.endswith(".jpg")
        self.facts[name] = {
            "file": f"images/{name}", "raw": f"raw/{name}", "width": stored.width, "height": stored.height,
            "channels": len(stored.getbands()), "mode": mode, "orientation": orientation, "lossless": lossless,
            "upright": {"width": upright.width, "height": upright.height, "sha256": digest(np.asarray(upright))},
            "resized": list(self._resized(name, stored.width * stored.height, lossless)) if resized else [],
        }  # fmt: skip

    def path(self, name: str) -> Path:
        """Where an image's file is."""
        return self.out / "images" / name

    def _resized(self, name: str, pixels: int, lossless: bool) -> Iterator[dict[str, Any]]:
        large = zip(FILTERS, LOSSY, strict=True)
        chosen = [(name, size) for name in FILTERS for size in SIZES] if pixels < LARGE and lossless else large
        for resample, size in chosen:
            values = load_image(self.path(name), size, resample)
            case: dict[str, Any] = {"method": f"pillow-{resample}-squash", "size": size, "sha256": digest(values)}
            if not lossless:
                case["pixels"] = f"pixels/{name}-{size}"
                (self.out / case["pixels"]).write_bytes(values.tobytes())
            yield case


def add_pictures(images: Images) -> None:
    """Sizes, modes, transparency, palettes, EXIF orientations, a gamma that is ignored, animation and JPEG."""
    made = {f"noisy-{w}x{h}.png": noisy(w, h, seed) for seed, (w, h) in enumerate(NOISY)}
    made |= {f"edges-{w}x{h}.png": edges(w, h) for w, h in ((640, 480), (97, 61), (50, 51))}
    made |= {f"photo-{w}x{h}.png": photo(w, h) for w, h in PHOTOS}
    made |= {
        "grey.png": photo(150, 90).convert("L"), "one-bit.png": photo(150, 90).convert("1"),
        "palette.png": photo(150, 90).quantize(32), "animated.gif": photo(80, 60).quantize(16),
        "lossless.bmp": photo(75, 50),
        "every-alpha.png": every_alpha(), "alpha.png": noisy(90, 70, 50, alpha=True),
        "alpha-tall.png": noisy(100, 256, 51, alpha=True), "alpha-wide.png": noisy(131, 97, 52, alpha=True),
        "grey-alpha.png": Image.merge("LA", [photo(64, 64).convert("L"), noisy(64, 64, 53).getchannel("G")]),
    }  # fmt: skip
    for name, image in made.items():
        images.save(name, image, True)
    images.save("palette-alpha.png", photo(64, 64).quantize(8), True, transparency=3)
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", (100000).to_bytes(4, "big"))
    images.save("gamma.png", photo(64, 64), True, pnginfo=linear)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        images.save(f"exif-{orientation}.png", noisy(37, 23, 99), True, exif=exif)
        images.save(f"exif-{orientation}.jpg", photo(120, 80), True, exif=exif, quality=95)


def noisy(width: int, height: int, seed: int, alpha: bool = False) -> Image.Image:
    """Smooth and noisy parts, extremes included."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4 if alpha else 3), dtype=np.uint8)
    pixels[: height // 2, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[height // 3 :, : width // 2, 1] = 255
    pixels[:, width // 2 :, 2] //= 128
    return Image.fromarray(pixels)


def edges(width: int, height: int) -> Image.Image:
    """Black and white, where a cubic overshoots."""
    pixels = np.random.default_rng(width).integers(0, 2, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels * 255)


def photo(width: int, height: int) -> Image.Image:
    """Gradients, edges and grain, different at every corner."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(width * 7919 + height).normal(0, 12, (height, width, 3))
    waves = [np.sin(x / 23 + y / 71), np.cos(x / 41 - y / 17), np.sin(x * y / 9000)]
    ramp = 60 * x / width - 40 * y / height
    disc = 70 * ((x - width / 3) ** 2 + (y - height / 4) ** 2 < (min(width, height) / 5) ** 2)
    values = np.stack([120 + 60 * wave + ramp + disc for wave in waves], -1) + grain
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def every_alpha() -> Image.Image:
    """Every grey under every alpha; at 256 x 256 nothing is resized."""
    ramp = np.arange(256, dtype=np.uint8)
    return Image.fromarray(np.stack([*[np.tile(ramp, (256, 1))] * 3, np.tile(ramp[:, None], 256)], axis=-1))


def digest(values: NDArray[np.uint8]) -> str:
    """SHA-256 of the pixels row by row, in hexadecimal."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def _upright(stored: Image.Image, orientation: int) -> Image.Image:
    """By Pillow alone: turned, then over white."""
    image = stored.copy()
    image.getexif()[ORIENTATION] = orientation
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
