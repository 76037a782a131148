"""Decoding image files that nobody vouches for: what is read, how large it may be, and what its numbers mean."""

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from himix_edge.errors import InputError
from himix_edge.image_containers import DamagedImage, Slim, foreign, orientation_of, raw_profile, slim

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535  # JPEG's and GIF's own limit
MAX_DECODED_BYTES = 320 << 20  # an image as it is decoded, with what its decoder needs
MAX_FILE_BYTES = 256 << 20
MAX_SLOW_BYTES = 8 << 20  # of a file whose decoder is written in Python
BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # a pixel as Pillow keeps it, else 4
EXTRA = {"WEBP": 16, "GIF": 2}  # bytes a pixel that decoders take besides
DEEP = re.compile(r"(RGBA?|LA);16[BLN]")
OTHER_DEPTH = re.compile(r".*;(12|16|32)")
GRAY16 = ("I;16", "I;16B", "I;16L", "I;16N")
HELP = "save it as 8-bit PNG or JPEG"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Decoded:
    """An image as its file has it: not upright, not RGB.

    `rgb` makes RGB of the same cut of each part: a part is the image, or one half of the bytes of its numbers.
    """

    parts: tuple[Image.Image, ...]
    rgb: Callable[..., Image.Image]
    orientation: int = 1


def decode_file(content: bytes, where: str) -> Decoded:
    """Decode an image file.

    Args:
        content: the whole file.
        where: what to call it in messages.

    Raises:
        InputError: not an image, of a kind that is not read, damaged, too large, or with numbers whose black and white
            are unknown.
    """
    with damage_named(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words on sizes and odd fields; what matters is checked here
        try:
            return _decoded(slim(content), where)
        except UnidentifiedImageError:
            kind = foreign(content)
            what = (
                f"{kind}, which is not read; {HELP}"
                if kind
                else f"not an image that can be read ({', '.join(FORMATS)})"
            )
            raise InputError(f"{where}: {what}") from None


@contextlib.contextmanager
def damage_named(where: str) -> Iterator[None]:
    """What goes wrong inside with an image's pixels as one InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise InputError(f"{where}: too large; images over {MAX_PIXELS // 10**6} megapixels are refused") from None
    except Exception as error:  # Pillow raises whatever its decoders come across, in a damaged file
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: damaged image ({text or type(error).__name__})") from None


def decode_picture(image: Image.Image, where: str) -> Decoded:
    """The same for a Pillow image; one that is opened but not loaded is read as its file."""
    file = getattr(image, "fp", None)
    if getattr(image, "tile", None) and file is not None and image.format in FORMATS and not _frame(image):
        file.seek(0)
        return decode_file(file.read(MAX_FILE_BYTES + 1), where)
    refuse_large(image.width, image.height, BYTES.get(image.mode, 4), where)
    with damage_named(where):
        image.load()
        exif = image.info.get("exif") or raw_profile(str(image.info.get("Raw profile type exif", "")).encode())
        orientation = orientation_of(exif) if isinstance(exif, bytes) else 1
        return Decoded((image,), _meaning(image, where), orientation)


def refuse_large(width: int, height: int, pixel_bytes: float, where: str) -> None:
    """Raises InputError for an image without pixels, or one that would take too much memory."""
    if width < 1 or height < 1:
        raise InputError(f"{where}: {width} x {height} pixels; there is nothing to see")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: {width} x {height} pixels; images over {MAX_PIXELS // 10**6} megapixels are refused, scale it "
            "down first"
        )
    if max(width, height) > MAX_SIDE:
        raise InputError(f"{where}: {width} x {height} pixels; a side over {MAX_SIDE} is refused, scale it down first")
    needed = width * height * pixel_bytes
    if needed > MAX_DECODED_BYTES:
        raise InputError(
            f"{where}: {width} x {height} pixels, which take {needed / 2**20:.0f} MiB to decode in this format; over "
            f"{MAX_DECODED_BYTES >> 20} MiB are refused, scale it down first"
        )


def _decoded(file: Slim, where: str) -> Decoded:
    image = _open(file.content)
    codec, raw = _tile(image)
    deep = DEEP.match(raw)
    kept = 12 if deep else 2 * BYTES.get(image.mode, 4) if image.mode in ("F", "I") else BYTES.get(image.mode, 4)
    extra = _strip_share(image) if codec == "libtiff" else EXTRA.get(image.format or "", 0)
    refuse_large(image.width, image.height, kept + extra + file.coefficients, where)
    _refuse_slow(codec, len(file.content), where)
    orientation = file.orientation
    if image.format == "WEBP":
        orientation = orientation_of(image.info.get("exif", b""))
    if image.format == "TIFF":
        _refuse_odd_tiff(image, raw, where)
    if (codec in ("ppm", "ppm_plain") and image.mode != "1") or (image.format == "PPM" and image.mode == "I"):
        image = _netpbm(image, file.content)
    if raw.startswith("LA;16"):
        _load(image, "RGBA")  # its four bytes a pixel as they are
        return Decoded((image,), _deep_gray_alpha, orientation)
    if deep:
        low = _low_bytes(_open(file.content), raw)
        _load(image)
        return Decoded((image, low), partial(_deep_color, image.info.get("transparency")), orientation)
    _load(image)
    _scale_transparency(image, raw)
    return Decoded((image,), _meaning(image, where, raw), orientation)


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _frame(image: Image.Image) -> int:
    return int(getattr(image, "tell", lambda: 0)())


def _tile(image: Image.Image) -> tuple[str, str]:
    """The decoder's name and the form of the pixels in the file."""
    tiles: list[Any] = getattr(image, "tile", [])
    if not tiles:  # WebP's come when it is loaded
        return "", ""
    args = tiles[0][3]
    raw = args[0] if isinstance(args, tuple) and args else args
    return str(tiles[0][0]), raw if isinstance(raw, str) else ""


def _strip_share(image: Any) -> float:
    """Bytes that the buffer of one strip of a compressed TIFF takes, for each pixel of the image."""
    fields = image.tag_v2
    rows = min(max(_numbers(fields.get(278, image.height))), image.height)  # RowsPerStrip
    samples, bits = (max(_numbers(fields.get(tag, 1))) for tag in (277, 258))
    return 1 + rows / image.height * max(4, samples * bits / 8)


def _load(image: Any, raw: str | None = None) -> None:
    """Decode; `raw` is another form than the file's own to read the pixels in."""
    if raw:
        image.tile = [(*tile[:3], raw) for tile in image.tile]
    if image.format == "TIFF":  # at its end Pillow would read all of EXIF and turn the image
        image.load_end = lambda: None
        image._size = image._tile_size if hasattr(image, "_tile_size") else image._size
    image.load()


def _low_bytes(image: Any, raw: str) -> Image.Image:
    """The low bytes of 16-bit numbers: Pillow keeps the high ones, which in the other order are the low ones."""
    usual = "L" if sys.byteorder == "little" else "B"
    order = {"B": "L", "L": "B"}[raw[-1] if raw[-1] in "BL" else usual]
    other = f"{raw[:-1]}{order}"
    image.tile = [
        (*tile[:3], (other, *tile[3][1:]) if isinstance(tile[3], tuple) else other)
        for tile in image.tile
    ]  # fmt: skip
    _load(image)
    low: Image.Image = image
    return low


def _refuse_slow(codec: str, size: int, where: str) -> None:
    if codec in ("bmp_rle", "ppm_plain") and size > MAX_SLOW_BYTES:
        raise InputError(f"{where}: over {MAX_SLOW_BYTES >> 20} MiB in a form that takes long to read; {HELP}")


def _refuse_odd_tiff(image: Any, raw: str, where: str) -> None:
    """Raises InputError for forms that Pillow reads as other pixels than they are, and for tiles larger than images."""
    fields = image.tag_v2
    tile = [fields.get(tag, 0) for tag in (322, 323)]  # TileWidth, TileLength
    sides = [side if isinstance(side, int) else MAX_SIDE for side in tile]
    if max(sides) > MAX_SIDE or sides[0] * sides[1] * 4 > MAX_DECODED_BYTES:
        raise InputError(f"{where}: damaged image (tiles of {sides[0]} x {sides[1]} pixels)")
    depth = OTHER_DEPTH.match(raw)
    inverted = fields.get(262) == 0 and depth  # PhotometricInterpretation: 0 is white
    planar = fields.get(284, 1) != 1 and max(_numbers(fields.get(258, 1))) > 8
    usual = raw.startswith(("RGB;", "RGBA;", "I;16", "F;32")) and not raw.startswith("I;16S") and raw != "I;16BS"
    if depth and (inverted or planar or not usual):
        why = "white is 0" if inverted else "each color by itself" if planar else raw
        raise InputError(f"{where}: a TIFF of {depth[1]}-bit numbers in a form that is not read ({why}); {HELP}")


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in (value if isinstance(value, tuple) else (value,))) or (0,)


def _scale_transparency(image: Image.Image, raw: str) -> None:
    """A PNG names its transparent value as it is stored, Pillow compares it with the value that it made of it."""
    value, factor = image.info.get("transparency"), {"L;2": 85, "L;4": 17}.get(raw, 1)
    if image.format == "PNG" and image.mode == "L" and isinstance(value, int):
        image.info["transparency"] = value * factor & 255
    elif image.format == "PNG" and image.mode == "RGB" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part & 255 for part in value)


def _netpbm(image: Any, content: bytes) -> Image.Image:
    """PPM and PGM with other largest numbers than 255: scaled to 8 bits, or to 16 and from there as all are."""
    codec, _, at, args = image.tile[0]
    raw, largest = args if isinstance(args, tuple) else ("L", 65535)
    channels = 3 if raw == "RGB" else 1
    count = image.width * image.height * channels
    if codec == "ppm_plain":
        text = re.sub(rb"#[^\r\n]*", b" ", content[at:])
        if re.search(rb"[^0-9\s]", text):
            raise DamagedImage("a letter among its numbers")
        values: NDArray[Any] = np.fromstring(text.decode("ascii"), np.int64, count, sep=" ")
        if values.size and values.max() > largest:
            raise DamagedImage(f"a number above its largest, {largest}")
    else:
        kind = np.dtype(">u2" if largest > 255 else "u1")
        values = np.frombuffer(content, kind, min(count, (len(content) - at) // kind.itemsize), at)
    if values.size < count:
        raise DamagedImage("it ends before its last pixel")
    top = 65535 if largest > 255 else 255
    table = np.round(np.arange(top + 1).clip(max=largest) / largest * top).astype(np.int64)
    pixels = (table // 257 if top > 255 else table).astype(np.uint8)[values.reshape(-1)]
    shape = (image.height, image.width, 3) if channels == 3 else (image.height, image.width)
    return Image.fromarray(pixels.reshape(shape))


def _meaning(image: Image.Image, where: str, raw: str = "") -> Callable[..., Image.Image]:
    """How a loaded image's numbers become 8-bit RGB."""
    if image.mode in GRAY16:
        value = image.info.get("transparency")
        return partial(_deep_gray, value if isinstance(value, int) else None)
    if image.mode == "F":
        return partial(_floats, _white(image, where))
    if image.mode.startswith("I"):
        raise InputError(f"{where}: 32-bit or signed numbers, of which it is unknown which is white; {HELP}")
    return _eight_bit


def _white(image: Image.Image, where: str) -> int:
    """Which float is white: 1 where none is larger, 255 where the largest is far above 1.

    Raises InputError for other numbers: one of both would make them black all over.
    """
    least, most = 0.0, 0.0
    for top in range(0, image.height, rows := max(1, 2**20 // image.width)):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        if not np.isfinite(strip).all():
            raise InputError(f"{where}: NaN or infinity among its numbers; {HELP}")
        least, most = min(least, float(strip.min())), max(most, float(strip.max()))
    if least < 0 or 1 < most < 16 or most > 255:
        raise InputError(f"{where}: floats from {least:g} to {most:g}, neither 0 to 1 nor 0 to 255; {HELP}")
    return 1 if most <= 1 else 255


def _eight_bit(image: Image.Image) -> Image.Image:
    return _over_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _floats(white: int, image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    return Image.fromarray((values if white == 255 else values * 255 + 0.5).astype(np.uint8)).convert("RGB")


def _deep_gray(transparent: int | None, image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    gray = Image.fromarray((values // 257).astype(np.uint8))
    if transparent is None:
        return gray.convert("RGB")
    gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return _over_white(gray.convert("RGBA"))


def _deep_gray_alpha(image: Image.Image) -> Image.Image:
    """The four bytes of a grey and an alpha value, read as RGBA."""
    stored = np.asarray(image)
    return _over_white(Image.fromarray(_by_257(stored[..., ::2], stored[..., 1::2])).convert("RGBA"))


def _deep_color(transparent: Any, high_part: Image.Image, low_part: Image.Image) -> Image.Image:
    high, low = np.asarray(high_part), np.asarray(low_part)
    colors = _by_257(high, low)
    if colors.shape[2] == 4:
        return _over_white(Image.fromarray(colors))
    if not isinstance(transparent, tuple):
        return Image.fromarray(colors)
    clear = (high.astype(np.uint16) * 256 + low == np.array(transparent)).all(2)
    return _over_white(Image.fromarray(np.dstack([colors, np.where(clear, 0, 255).astype(np.uint8)])))


def _by_257(high: Bytes, low: Bytes) -> Bytes:
    """(256 high + low) // 257, which is high, or one less where low is less."""
    return high - (low < high)
