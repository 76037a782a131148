"""What stands around an image's pixels in a file: only what decides about the pixels is kept, everything else left out.

Comments, colour profiles, thumbnails, further frames and everything else of EXIF can then be as odd as they like: a
library that would read them, or unfold them to gigabytes, never sees them. See `slim`.
"""

import binascii
import contextlib
import struct
import zlib
from dataclasses import dataclass

MAX_SCANS = 100  # of a JPEG; cameras and programs write up to a dozen, and each goes over the whole image
MAX_FIELDS = 4096  # of a TIFF directory; usual are thirty
MAX_FIELD_BYTES = 16 << 20  # all values of one, of which the places of the pixels are the longest
ORIENTATION = 0x112
_FIELD_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_RAW_PROFILE = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # EXIF in a PNG before eXIf was there
_FOREIGN = (
    (0, b"%PDF", "a PDF"), (0, b"8BPS", "a Photoshop file"), (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"\0\0\0\x0cjP  ", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\1\0", "an icon"), (0, b"v/1\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"), (0, b"DDS ", "DDS"),
)  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a camera's raw file"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)


class DamagedImage(ValueError):
    """A file that breaks its own format; the text says where."""


@dataclass(frozen=True)
class Slim:
    """A file with what decides about its pixels.

    `coefficients` is the memory in bytes a pixel that a JPEG of several scans takes besides its pixels.
    """

    content: bytes
    orientation: int = 1
    coefficients: float = 0.0


def foreign(content: bytes) -> str:
    """What a file is, if it is of a known kind that is not read; else ""."""
    for at, mark, name in _FOREIGN:
        if content.startswith(mark, at):
            return name
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "a video or an unknown kind of image")
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in content[:4096].lower():
        return "SVG"
    return ""


def slim(content: bytes) -> Slim:
    """A PNG, JPEG or GIF without what does not matter, any other file as it is.

    Raises:
        DamagedImage: the file ends too early, or holds more fields or scans than any that is meant well.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return Slim(_gif(content))
    if content.startswith((b"II", b"MM")):
        return Slim(content, _checked_tiff(content))
    return Slim(content)


def orientation_of(exif: bytes) -> int:
    """The orientation (1 to 8) in EXIF data; 1 if there is none, whatever else is in it."""
    with contextlib.suppress(struct.error, IndexError):
        endian, at, count = _directory(exif.removeprefix(b"Exif\0\0"))
        for position in range(at, at + 12 * min(count, MAX_FIELDS), 12):
            found = _orientation_field(exif.removeprefix(b"Exif\0\0"), endian, position)
            if found:
                return found
    return 1


def raw_profile(text: bytes) -> bytes:
    """EXIF data written as a text of hexadecimal digits behind three lines; empty if it is not."""
    with contextlib.suppress(binascii.Error, ValueError):
        return binascii.unhexlify(b"".join(text.split(b"\n")[3:]))
    return b""


def _orientation_field(data: bytes, endian: str, position: int) -> int:
    tag, kind, count = struct.unpack_from(f"{endian}HHI", data, position)
    if tag != ORIENTATION or kind not in _INTEGERS or count != 1:
        return 0
    (value,) = struct.unpack_from(endian + _INTEGERS[kind], data, position + 8)
    return int(value) if 1 <= value <= 8 else 0


def _directory(data: bytes) -> tuple[str, int, int]:
    """Byte order, place and length of the first directory of a classic TIFF. Raises struct.error if there is none."""
    endian = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if endian is None:
        raise struct.error("not a TIFF directory")
    (at,) = struct.unpack_from(f"{endian}I", data, 4)
    (count,) = struct.unpack_from(f"{endian}H", data, at)
    return endian, at + 2, count


def _checked_tiff(content: bytes) -> int:
    """A TIFF file's orientation. Raises DamagedImage for a first directory with more than an image can need."""
    big = content[2:4] in (b"+\0", b"\0+")
    endian = "<" if content.startswith(b"II") else ">"
    try:
        if big:
            (at,) = struct.unpack_from(f"{endian}Q", content, 8)
            (count,) = struct.unpack_from(f"{endian}Q", content, at)
            at, length, entry = at + 8, 20, "HHQ"
        else:
            endian, at, count = _directory(content)
            length, entry = 12, "HHI"
        if count > MAX_FIELDS:
            raise DamagedImage(f"{count} TIFF fields")
        total, orientation = 0, 1
        for position in range(at, at + length * count, length):
            tag, kind, number = struct.unpack_from(endian + entry, content, position)
            total += _FIELD_SIZES.get(kind, 0) * number
            if tag == ORIENTATION and number == 1 and kind in _INTEGERS:
                (value,) = struct.unpack_from(endian + _INTEGERS[kind], content, position + length - (8 if big else 4))
                orientation = value if 1 <= value <= 8 else 1
    except (struct.error, OverflowError):
        raise DamagedImage("its TIFF directory lies beyond its end") from None
    if total > min(MAX_FIELD_BYTES, len(content)):
        raise DamagedImage(f"{total} bytes of TIFF fields")
    return orientation


def _png(content: bytes) -> Slim:
    view = memoryview(content)
    kept, at, orientation = [view[:8]], 8, 1
    while at + 12 <= len(content):
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        data = view[at + 8 : at + 8 + length]
        if name in _PNG_KEPT:
            kept.append(view[at : at + 12 + length])
        elif name == b"eXIf":
            orientation = orientation_of(bytes(data))
        elif orientation == 1 and name in (b"tEXt", b"zTXt") and bytes(data[:22]) in _RAW_PROFILE:
            orientation = orientation_of(raw_profile(_png_text(name, bytes(data[22:]))))
        if name == b"IEND":
            break
        at += 12 + length
    return Slim(b"".join(kept), orientation)


def _png_text(name: bytes, data: bytes) -> bytes:
    if name == b"tEXt":
        return data
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj().decompress(data[1:], 1 << 20)
    return b""


def _jpeg(content: bytes) -> Slim:
    kept, at, exif = [b"\xff\xd8"], 2, b""
    frame: tuple[int, bytes] = (0, b"")
    while True:
        while content[at : at + 2] in (b"\xff\xff", b"\xff\0"):  # filling
            at += 1 if content[at + 1] else 2
        if len(content) < at + 4:
            raise DamagedImage("it ends before its pixels")
        if content[at] != 0xFF:
            raise DamagedImage("no JPEG marker where one must be")
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stands alone
            at += 2
            continue
        segment = content[at + 4 : at + 2 + length]
        if marker == 0xDA:
            break
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment
        elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at : at + 2 + length])  # JFIF's and Adobe's segments say how colors are stored
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                frame = marker, segment
        at += 2 + max(length, 2)
    end = content.find(b"\xff\xd9", at)
    pixels = content[at : end + 2 if end >= 0 else len(content)]
    scans = pixels.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise DamagedImage(f"{scans} scans; over {MAX_SCANS} are refused")
    return Slim(b"".join([*kept, pixels]), orientation_of(exif), _coefficients(*frame, scan_components=segment[:1]))


def _coefficients(marker: int, frame: bytes, scan_components: bytes) -> float:
    """Bytes a pixel of the coefficients that are all kept until the last scan; 0 if one scan holds all."""
    components = frame[5:6]
    if marker not in (0xC2, 0xC6, 0xCA, 0xCE) and components == scan_components:
        return 0.0
    factors = [(byte >> 4, byte & 15) for byte in frame[7::3][: (components or b"\0")[0]]]
    largest = max((h for h, _ in factors), default=1) * max((v for _, v in factors), default=1)
    return 2.0 * sum(h * v for h, v in factors) / max(largest, 1)


def _gif(content: bytes) -> bytes:
    """The first frame alone, with the control block in front of it."""
    if len(content) < 13:
        raise DamagedImage("it ends before its pixels")
    at = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    kept = [content[:at]]
    while at < len(content):
        kind, start = content[at], at
        if kind == 0x21:
            at = _behind_blocks(content, at + 2)
            if content[start + 1 : start + 2] == b"\xf9":
                kept[1:] = [content[start:at]]
        elif kind == 0x2C:
            flags = content[at + 9 : at + 10] or b"\0"
            at = _behind_blocks(content, at + 11 + (3 << (flags[0] & 7) + 1 if flags[0] & 0x80 else 0))
            return b"".join([*kept, content[start:at], b";"])
        elif kind == 0x3B:
            break
        else:
            at += 1  # as browsers do
    raise DamagedImage("it holds no picture")


def _behind_blocks(content: bytes, at: int) -> int:
    """The place behind a chain of data blocks, each of which begins with its length; an empty one ends it."""
    while at < len(content) and content[at]:
        at += content[at] + 1
    return at + 1
