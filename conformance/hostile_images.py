"""Image files and saved ImageKVs that are damaged, huge, of a kind that is refused, or only odd."""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from himix_edge.preprocess import load_image, resize

Case = tuple[str, bytes, dict[str, Any]]
SIDE = 64  # of the pixels whose digest is stated: bilinear
EXIF_WITH_TEXT = (
    b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0\xa0\x05\x04\0\x01\0\0\0\x32\0\0\0\0\0\0\0"
)


def images() -> Iterator[Case]:
    """(name, file, {expect, words, sha256}); `sha256` of the S x S pixels where every decoder gives the same."""
    plain = _photo()
    png, jpeg = _saved(plain, "PNG"), _saved(plain, "JPEG", quality=95)
    yield "a PNG", png, _same(plain)
    yield "a JPEG", jpeg, {"expect": "same", "words": []}
    for name, content in {
        "nothing": b"",
        "text": b"no picture",
        "half a PNG": png[: len(png) // 2],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a JPEG's first bytes": jpeg[:3],
        "a PNG's first bytes": png[:20],
        "a PNG of 0 x 0": _png(0, 0, 8, 0, b""),
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    }.items():
        yield name, content, _refused()
    yield "1 x 20,000,000", _png(1, 20_000_000, 1, 0, _zeros(2 * 20_000_000)), _refused("20000000")
    yield "20,000,000 x 1", _png(20_000_000, 1, 1, 0, _zeros(2_500_001)), _refused("20000000")
    yield "30,000 x 30,000, the header alone", _png(30_000, 30_000, 8, 2, b""), _refused("30000")
    yield "2^31 x 2^31, the header alone", _png(1 << 31, 1 << 31, 8, 2, b""), _refused()
    for name, kind, channels in (("grey", 0, 1), ("RGB", 2, 3), ("grey and alpha", 4, 2), ("RGBA", 6, 4)):
        row = b"\0" + np.arange(32 * channels, dtype=">u2").tobytes()
        yield _either(f"16-bit {name} PNG", _png(32, 32, 16, kind, zlib.compress(row * 32)), "16")
    yield _either("a CMYK JPEG", _saved(plain.convert("CMYK"), "JPEG"), "CMYK")
    yield _either("a PNG without its end", png[:-12], "")
    frames = [plain.convert("P"), Image.new("P", plain.size)]
    gif = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(gif)) as first:
        yield "an animated GIF", gif, _same(first.convert("RGB"))
    yield (
        "an animated PNG",
        _saved(plain, "PNG", save_all=True, append_images=[Image.new("RGB", plain.size)]),
        _same(plain),
    )
    for name, exif in {
        "orientation 99": _exif(0x0112, 3, struct.pack("<I", 99)),
        "orientation 0": _exif(0x0112, 3, bytes(4)),
        "EXIF that is noise": b"Exif\0\0" + bytes(range(256)) * 40,
        "EXIF cut short": b"Exif\0\0II*\0",
        "EXIF that points outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "EXIF with text for numbers": EXIF_WITH_TEXT,
    }.items():
        chunk = png[:33] + _chunk(b"eXIf", exif[6:]) + png[33:]
        facts = {"expect": "same", "words": []} if "text" in name else _same(plain)
        yield f"{name}, PNG", chunk, facts
        yield f"{name}, JPEG", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:], {
            "expect": "same", "words": [],
        }  # fmt: skip
    yield "a JPEG with something behind its end", jpeg + b"garbage", {"expect": "same", "words": []}


def image_kvs(good: bytes) -> Iterator[Case]:
    """(name, file, {expect, words}) from a saved ImageKV."""
    header, data = _parsed(good)
    half = len(data) // 2

    def altered(change: Callable[[dict[str, Any]], Any], content: bytes = data) -> bytes:
        changed = json.loads(json.dumps(header))
        change(changed)
        return _built(changed, content)

    def metadata(**fields: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda h: h["__metadata__"].update(fields)

    def both(**fields: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda h: [h[name].update(fields) for name in ("key", "value")]

    yield "as it was", good, {"expect": "same", "words": []}
    yield "the header spelled anew", altered(lambda h: None), {"expect": "same", "words": []}
    cases: dict[str, bytes] = {
        "nothing": b"",
        "seven bytes": good[:7],
        "cut off": good[:-1],
        "something behind the end": good + bytes(4),
        "a header of 2^60 bytes": struct.pack("<Q", 1 << 60) + good[8:],
        "a header of 2^64 - 1 bytes": struct.pack("<Q", (1 << 64) - 1) + good[8:],
        "a header that is no JSON": struct.pack("<Q", 16) + b"no header at all" + data,
        "a header nested 10,000 deep": struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000 + data,
        "key and value are one place": altered(lambda h: h["value"].update(data_offsets=[0, half])),
        "key and value overlap": altered(lambda h: h["value"].update(data_offsets=[4, half + 4])),
        "a hole between them": altered(lambda h: h["value"].update(data_offsets=[half + 4, 2 * half + 4]),
                                       data[:half] + bytes(4) + data[half:]),
        "half precision": altered(both(dtype="F16")),
        "no dtype": altered(lambda h: h["key"].pop("dtype")),
        "no value": altered(lambda h: h.pop("value")),
        "a third tensor": altered(lambda h: h.update(more={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
        "no metadata": altered(lambda h: h.pop("__metadata__")),
        "another format": altered(metadata(format="himix-image-kv-3")),
        "float32 under the name of fewer bits": altered(metadata(format="himix-image-kv-2")),
        "another model": altered(metadata(model_id="0" * 16)),
        "no model": altered(lambda h: h["__metadata__"].pop("model_id")),
        "no position": altered(lambda h: h["__metadata__"].pop("next_position")),
    }  # fmt: skip
    for position in ("-1", "600", "1.5", "1e2", "", "x", " 0", "9" * 30, "2147483648", 0, None, [], "\u0660"):
        cases[f"next_position {position!r}"] = altered(metadata(next_position=position))
    for shape in ([], [1], [0, 0, 0, 0], [-1, 1, 1, 1], [1 << 62, 4, 1, 1], [1 << 31, 1 << 31, 1, 1], "x", 5, None,
                  [1.5, 1, 1, 1], header["key"]["shape"][::-1], [*header["key"]["shape"], 1]):  # fmt: skip
        cases[f"shape {shape}"] = altered(both(shape=shape))
    for offsets in ([], [0], [half, 0], [-4, half - 4], [0, 1 << 62], [0.0, 1e400], ["0", str(half)], None, 5):
        cases[f"offsets {offsets}"] = altered(lambda h, o=offsets: h["key"].update(data_offsets=o))  # type: ignore[misc]
    for name, number in {"NaN": float("nan"), "infinity": float("inf")}.items():
        cases[f"{name} among the values"] = _built(header, data[:-4] + struct.pack("<f", number))
    for name, content in cases.items():
        yield name, content, _refused()


def _parsed(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:end]), content[end:]


def _built(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).replace("Infinity", "1e400").encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _photo() -> Image.Image:
    """Different at every corner, so that a turn shows."""
    y, x = np.mgrid[0:48, 0:70]
    return Image.fromarray(np.stack([3 * x, 5 * y, (x * y) % 251], -1).astype(np.uint8))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _same(image: Image.Image) -> dict[str, Any]:
    return {"expect": "same", "words": [], "sha256": hashlib.sha256(resize(image, SIDE).tobytes()).hexdigest()}


def _either(name: str, content: bytes, word: str) -> Case:
    """What a client need not read; if it does, the pixels are these."""
    pixels = load_image(content, SIDE)
    return name, content, {"expect": "either", "words": [word], "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}


def _refused(word: str = "") -> dict[str, Any]:
    return {"expect": "refused", "words": [word]}


def _exif(tag: int, kind: int, value: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", tag, kind, 1) + value + bytes(4)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, color: int, packed: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    pack = zlib.compressobj(9)
    return b"".join(pack.compress(bytes(min(1 << 20, count - at))) for at in range(0, count, 1 << 20)) + pack.flush()
