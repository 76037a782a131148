"""From an image file to the S x S pixels a vision encoder takes: the one thing an app has to do itself.

Exactly: the first frame, turned upright by its EXIF orientation, 16-bit channels divided by 257, transparency over
white, converted to 8-bit RGB, then Pillow's `resize((S, S), BILINEAR)` or `BICUBIC` (a triangle filter, or Keys' cubic
with a = -0.5; its support grows with the reduction, 8-bit fixed-point, horizontal pass first, also where Pillow 13
would begin with the vertical one), without keeping the aspect ratio. At S x S it is identity.

Of EXIF nothing but the orientation counts, and no color profile does. Floats are grey from 0 to 1, or to 255 where the
largest is 16 or more; numbers whose black and white are unknown are refused, as `himix_edge.image_files` says.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himix_edge.config.vision import Resample
from himix_edge.errors import InputError
from himix_edge.image_files import MAX_FILE_BYTES, Decoded, damage_named, decode_file, decode_picture, refuse_large
from himix_edge.reading import read_bytes

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_NARROWED_BYTES = 128 << 20  # an image behind the horizontal pass: S wide, as high as ever
Cut = Callable[[tuple[int, int, int, int]], Image.Image]
STRIP_PIXELS = 1 << 20  # what is turned, made RGB and narrowed at once
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Drawing(Protocol):
    """An image that is drawn when its pixels are asked for; hashable, and always drawn the same."""

    def render(self) -> Image.Image: ...

    def __hash__(self) -> int: ...


class Stored(Protocol):
    """An image file that lies inside of another one; hashable."""

    def stored(self) -> tuple[bytes, str]:
        """The image file's content, and what to call it in messages."""
        ...

    def __hash__(self) -> int: ...


Picture = Drawing | Stored
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Picture
"""A path, a file's content, an open file, a Pillow image, uint8 pixels (H, W), (H, W, 3) or (H, W, 4), or a picture."""


def load_image(image: ImageSource, size: int, resample: Resample = "bilinear") -> NDArray[np.uint8]:
    """Read an image and resize it as this module says.

    Args:
        image: a PNG, JPEG, WebP, GIF, BMP, TIFF or PPM (of an animation the first frame counts) as path, bytes or open
            file; or one in memory, see `ImageSource`.
        size: S, the side in pixels that the model takes.
        resample: the filter that the model wants.

    Returns:
        uint8 (1, S, S, 3), RGB.

    Raises:
        InputError: the file is missing, not an image, damaged, or too large: over 100 megapixels, 65,535 pixels a side,
            or 320 MiB decoded.
    """
    decoded, where = _opened(image)
    return _resized(decoded, size, resample, where)


def open_upright(image: ImageSource) -> tuple[Image.Image, str]:
    """The whole image in 8-bit RGB, by the method in the module's docstring, and what to call it in messages.

    Raises as `load_image`.
    """
    decoded, where = _opened(image)
    cut, (width, height) = _upright(decoded)
    with damage_named(where):
        return cut((0, 0, width, height)), where


def resize_to(image: Image.Image, width: int, height: int, method: Image.Resampling) -> Image.Image:
    """`image` with other sides: the horizontal pass first, in every version of Pillow."""
    if image.width != width:
        image = image.resize((width, image.height), method)
    return image.resize((width, height), method) if image.height != height else image


def _opened(image: ImageSource) -> tuple[Decoded, str]:
    if _is_path(image):
        path = Path(image)
        with contextlib.suppress(OSError):  # a folder that may not be read, a name too long: told by reading it
            if not os.path.exists(image):  # noqa: PTH110 (half the time of Path's, which a small model sees)
                raise InputError(f"{path}: no such image")
        return decode_file(read_bytes(path, MAX_FILE_BYTES), str(path)), str(path)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_file(bytes(image), "image"), "image"
    if isinstance(image, np.ndarray):
        image = _drawn(image)
    if isinstance(image, Image.Image):
        return decode_picture(image, "image"), "image"
    if _is_open(image):
        return decode_file(_content(image), "image"), "image"
    if _is_stored(image):
        content, where = image.stored()
        return decode_file(content, where), where
    if _is_drawing(image):
        return decode_picture(image.render(), "image"), "image"
    raise InputError(
        f"a {type(image).__name__} is no image; give a path, a file's bytes, an open file, a Pillow image or an array "
        "of uint8 (height, width, 3)"
    )


def resize(image: Image.Image, size: int, resample: Resample = "bilinear") -> NDArray[np.uint8]:
    """A Pillow image as uint8 (1, S, S, 3) RGB, by the method in the module's docstring. Raises as `load_image`."""
    return _resized(decode_picture(image, "image"), size, resample)


def is_image(value: object) -> bool:
    """Whether a value is one image and not several, though it may have a length."""
    single = isinstance(value, bytes | bytearray | memoryview | np.ndarray | Image.Image)
    return single or _is_path(value)


def _resized(decoded: Decoded, size: int, resample: Resample, where: str = "image") -> NDArray[np.uint8]:
    """A strip at a time down to S columns, then all at once to S rows: the same pixels as of the whole image."""
    cut, (width, height) = _upright(decoded)
    if 4 * size * height > MAX_NARROWED_BYTES:
        raise InputError(f"{where}: {width} x {height} pixels are too high for a model that takes {size} x {size}")
    with damage_named(where):
        return _in_strips(cut, width, height, size, FILTERS[resample])


def _in_strips(cut: Cut, width: int, height: int, size: int, method: Image.Resampling) -> NDArray[np.uint8]:
    rows = max(1, STRIP_PIXELS // width)
    narrowed = None if rows >= height else Image.new("RGB", (size, height))
    for top in range(0, height, rows):
        strip = cut((0, top, width, min(top + rows, height)))
        if width != size:
            strip = strip.resize((size, strip.height), method)
        if narrowed is None:
            narrowed = strip
        else:
            narrowed.paste(strip, (0, top))
    assert narrowed is not None
    if height != size:
        narrowed = narrowed.resize((size, size), method)
    return np.asarray(narrowed, dtype=np.uint8)[None]


def _upright(decoded: Decoded) -> tuple[Cut, tuple[int, int]]:
    """What cuts a box (left, top, right, bottom) out of the upright image in RGB, and that image's size."""
    wide, high = decoded.parts[0].size
    turn = TURNS.get(decoded.orientation)

    def cut(box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        if decoded.orientation >= 5:  # rows are columns of the file
            left, top, right, bottom = top, left, bottom, right
        if decoded.orientation in (2, 3, 7, 8):
            left, right = wide - right, wide - left
        if decoded.orientation in (3, 4, 6, 7):
            top, bottom = high - bottom, high - top
        stored = (left, top, right, bottom)
        whole = stored == (0, 0, wide, high)
        rgb = decoded.rgb(*decoded.parts) if whole else decoded.rgb(*(part.crop(stored) for part in decoded.parts))
        return rgb.transpose(turn) if turn is not None else rgb

    return cut, (high, wide) if decoded.orientation >= 5 else (wide, high)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


def _is_open(value: object) -> TypeGuard[BinaryIO]:
    return callable(getattr(value, "read", None))


def _is_stored(value: object) -> TypeGuard[Stored]:
    return callable(getattr(value, "stored", None))


def _is_drawing(value: object) -> TypeGuard[Drawing]:
    return callable(getattr(value, "render", None))


def _drawn(pixels: NDArray[np.generic]) -> Image.Image:
    """Raises InputError for what is no image of uint8."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise InputError(
            f"an array {pixels.shape} of {pixels.dtype} is no image; give uint8 (height, width, 3), and several images "
            "as a list"
        )
    refuse_large(pixels.shape[1], pixels.shape[0], 4, "image")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _content(file: BinaryIO) -> bytes:
    """A file's content from its beginning, as Pillow reads it. Raises InputError for one that cannot be read."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"image: the open file cannot be read ({error})") from None
    if not isinstance(content, bytes):
        raise InputError("image: the open file gives text; open it with mode 'rb'")
    return content
