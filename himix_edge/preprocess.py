"""From an image file to the S x S pixels a vision encoder takes: the one thing an app has to do itself.

Exactly: the first frame, turned upright by its EXIF orientation, 16-bit channels divided by 257, transparency over
white, converted to 8-bit RGB, then Pillow's `resize((S, S), BILINEAR)` or `BICUBIC` (a triangle filter, or Keys' cubic
with a = -0.5; its support grows with the reduction, 8-bit fixed-point, horizontal pass first, also where Pillow 13
would begin with the vertical one), without keeping the aspect ratio. At S x S it is identity.
"""

import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from himix_edge.config.vision import Resample
from himix_edge.errors import InputError

MAX_PIXELS = 100_000_000  # a 100-megapixel photo decodes to 300 MB; beyond that an image is refused unread
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class Picture(Protocol):
    """An image that is drawn when its pixels are asked for; hashable, and always drawn the same."""

    def render(self) -> Image.Image: ...

    def __hash__(self) -> int: ...


def load_image(path: str | Path | Picture, size: int, resample: Resample = "bilinear") -> NDArray[np.uint8]:
    """Read an image file and resize it as this module says.

    Args:
        path: PNG, JPEG, WebP, GIF, BMP, TIFF or PPM; of an animation the first frame counts. Or a picture to draw.
        size: S, the side in pixels that the model takes.
        resample: the filter that the model wants.

    Returns:
        uint8 (1, S, S, 3), RGB.

    Raises:
        InputError: the file is missing, not an image, damaged, or over 100 megapixels.
    """
    if not isinstance(path, str | Path):
        return resize(path.render(), size, resample)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the limit below is ours
            image = Image.open(path, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {image.width} x {image.height} pixels; images over {MAX_PIXELS // 10**6} megapixels "
                    "are refused, scale it down first"
                )
            return resize(image, size, resample)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, MemoryError):
        raise InputError(f"{path}: too large; images over {MAX_PIXELS // 10**6} megapixels are refused") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not an image") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: damaged image ({error})") from None


def resize(image: Image.Image, size: int, resample: Resample = "bilinear") -> NDArray[np.uint8]:
    """An opened image as uint8 (1, S, S, 3) RGB, by the method in the module's docstring."""
    upright = ImageOps.exif_transpose(image)
    rgb = _to_rgb(upright)
    for step in ((size, rgb.height), (size, size)):  # one pass at a time: from Pillow 13 on, both together may swap
        if rgb.size != step:
            rgb = rgb.resize(step, FILTERS[resample])
    return np.asarray(rgb, dtype=np.uint8)[None]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
