"""Image files that nobody vouches for: limits before memory is spent, numbers of any depth, what else a file holds."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from himix_edge import image_files, preprocess
from himix_edge.errors import InputError
from himix_edge.image_containers import orientation_of, slim
from himix_edge.preprocess import load_image, resize

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
WIDE, TALL = (20_000_000, 1), (1, 20_000_000)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values, kind: int, depth: int, *chunks: bytes, size=None) -> bytes:
    """A PNG of numbers (height, width * channels), with chunks in front of its pixels."""
    values = np.asarray(values)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    height, width = values.shape[0], values.shape[1] // channels
    if depth < 8:
        bits = (values[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
        rows = [np.packbits(row).tobytes() for row in bits]
    else:
        rows = [row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values]
    head = struct.pack(">IIBBBBB", *(size or (width, height)), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of one directory; an entry is its tag, type, count and four bytes."""
    fields = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize(("kind", "depth"), [(0, 1), (3, 8), (4, 8), (6, 16)])
def test_a_long_side_is_refused_before_its_pixels_are_read(size, kind, depth):
    with pytest.raises(InputError, match="a side over 65535"):
        load_image(png(np.zeros((1, 4), int), kind, depth, chunk(b"PLTE", bytes(3)), size=size), 64)


def test_what_takes_too_much_memory_to_decode_is_refused_by_its_form():
    """9,000 x 9,000: a byte a pixel fits, eight do not."""
    size = (9_000, 9_000)
    with pytest.raises(InputError, match="damaged"):
        load_image(png(np.zeros((1, 1), int), 0, 8, size=size), 64)
    for kind, depth in ((2, 16), (4, 16), (6, 16)):
        with pytest.raises(InputError, match="MiB to decode"):
            load_image(png(np.zeros((1, 4), int), kind, depth, size=size), 64)


def test_a_progressive_jpeg_counts_its_coefficients():
    image = Image.fromarray(NOISE)
    assert slim(encoded(image, "JPEG", subsampling=0)).coefficients == 0
    assert slim(encoded(image, "JPEG", subsampling=0, progressive=True)).coefficients == 6
    assert slim(encoded(image, "JPEG", subsampling=2, progressive=True)).coefficients == 3


def test_a_jpeg_of_very_many_scans_is_refused():
    content = encoded(Image.fromarray(NOISE), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    with pytest.raises(InputError, match="scans"):
        load_image(content[:at] + content[at:-2] * 200 + content[-2:], 16)


def test_an_image_too_high_for_a_large_model_is_refused():
    with pytest.raises(InputError, match="too high"):
        load_image(Image.new("L", (1, 60_000)), 1024)
    assert load_image(Image.new("L", (1, 60_000)), 64).shape == (1, 64, 64, 3)


def test_a_compressed_tiff_counts_its_strips(monkeypatch):
    """All rows in one strip take as much again; a strip of a few rows does not."""
    image = Image.fromarray(NOISE)
    one, many = (encoded(image, "TIFF", compression="tiff_lzw", strip_size=size) for size in (1 << 20, 150))
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", 6 * 30 * 50)
    with pytest.raises(InputError, match="to decode in this format"):
        load_image(one, 16)
    assert (load_image(many, 16) == load_image(NOISE, 16)).all()


def test_tiff_directories_and_tiles_out_of_proportion_are_refused():
    many = struct.pack("<H", 60_000) + struct.pack("<HHII", 270, 2, 1, 0) * 60_000
    with pytest.raises(InputError, match="60000 TIFF fields"):
        load_image(b"II*\0" + struct.pack("<I", 8) + many, 16)
    large = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", 5_000 + n, 7, 1 << 20, 0) for n in range(9)) + bytes(4)
    with pytest.raises(InputError, match="bytes of TIFF fields"):
        load_image(b"II*\0" + struct.pack("<I", 8) + large + bytes(1 << 20), 16)
    with pytest.raises(InputError, match="beyond its end"):
        load_image(b"II*\0\xff\xff\xff\xff" + bytes(100), 16)


# ------------------------------------------------------------------------------------------------ in strips


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(50, 30), (30, 50)])
def test_strips_are_the_whole_image(monkeypatch, orientation, size):
    image = Image.fromarray(NOISE).resize(size)
    upright = ImageOps.exif_transpose(with_orientation(image, orientation))
    expected = resize(Image.fromarray(np.asarray(upright)), 24)
    for content in (
        encoded(image, "PNG", exif=exif_of(orientation)),
        encoded(image, "TIFF", exif=exif_of(orientation)),
    ):
        for pixels in (1, 70, 1 << 20):
            monkeypatch.setattr(preprocess, "STRIP_PIXELS", pixels)
            assert (load_image(content, 24) == expected).all()


def exif_of(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x112] = orientation
    return made


def with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "PNG", exif=exif_of(orientation))))


# ------------------------------------------------------------------------------------------------ what else is in it


@pytest.mark.parametrize("entry", [
    (0x128, 8, 1, struct.pack("<hh", -3, 0)),
    (0x11A, 2, 3, b"72\0\0"),
    (0x101, 9, 1, struct.pack("<i", -5)),
    (0x11A, 5, 1 << 30, b"\xff\xff\xff\xff"),
    (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
    (0x8825, 12, 1, b"\0\0\0\0"),
    (0x110, 99, 7, b"\1\2\3\4"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_gives_the_orientation_whatever_else_it_holds(form, entry):
    options = {"lossless": True} if form == "WEBP" else {}
    image, data = Image.fromarray(NOISE), exif(entry, TURNED)
    upright = load_image(encoded(image.transpose(Image.Transpose.ROTATE_270), "PNG"), 16)
    found = load_image(encoded(image, form, exif=data, **options), 16)
    assert np.abs(found.astype(int) - upright).mean() < (12 if form == "JPEG" else 0.01)


@pytest.mark.parametrize("data", [
    b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", exif(TURNED)[:-14], exif((0x112, 3, 2, b"\6\0\6\0")),
    exif((0x112, 2, 1, b"6\0\0\0")), exif((0x112, 3, 1, b"\x09\0\0\0")), exif((0x112, 8, 1, b"\xff\xff\0\0")),
])  # fmt: skip
def test_an_orientation_that_is_none_is_upright(data):
    assert orientation_of(data) == 1


def test_exif_as_imagemagick_wrote_it_into_png():
    data = exif(TURNED)
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(data), data.hex().encode())
    row = np.arange(12).reshape(2, 6) * 20
    assert (
        load_image(png(row, 0, 8, chunk(b"tEXt", text)), 8) == load_image(np.rot90(row, -1).astype(np.uint8), 8)
    ).all()


def test_color_profiles_and_comments_do_not_matter_however_odd():
    plain = png(NOISE.reshape(30, -1), 2, 8)
    bomb = zlib.compress(bytes(8 << 20))
    chunks = [
        chunk(b"iCCP", b"profile\0\0" + bomb), chunk(b"iCCP", b"broken"), chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation=\"6\""), chunk(b"acTL", b"\1"),
        chunk(b"tIME", b"wrong")[:-1] + b"!", chunk(b"pHYs", b""), chunk(b"gAMA", b"\0"), chunk(b"cHRM", b"\1\2"),
    ]  # fmt: skip
    for odd in chunks:
        assert (load_image(png(NOISE.reshape(30, -1), 2, 8, odd), 16) == load_image(plain, 16)).all()
    image = Image.fromarray(NOISE)
    expected = load_image(encoded(image, "JPEG"), 16)
    assert (load_image(encoded(image, "JPEG", icc_profile=b"not a profile", comment=b"x" * 70), 16) == expected).all()


def test_comments_and_later_frames_of_a_gif_are_passed_over():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"a")
    thin = slim(content).content
    assert thin.count(b"\x2c\0\0\0\0") == 1
    many = content[:13] + content[13:].replace(b"\x21\xf9", b"\x21\xfe\1x\0" * 1000 + b"\x21\xf9", 1)
    assert (load_image(many, 8) == [255, 0, 0]).all()
    with pytest.raises(InputError, match="holds no picture"):
        load_image(b"GIF89a" + bytes(7) + b"\x21\xfe\1x\0;", 8)


# ------------------------------------------------------------------------------------------------ numbers


def test_16_bit_png_by_one_rule_for_gray_and_color():
    values = np.arange(0, 65536, 16).reshape(64, 64)
    expected = (values // 257)[..., None]
    opaque = np.full_like(values, 65535)
    for kind, channels in ((0, [values]), (2, [values] * 3), (4, [values, opaque]), (6, [*[values] * 3, opaque])):
        found = load_image(png(np.stack(channels, 2).reshape(64, -1), kind, 16), 64)[0]
        assert (found == expected).all()


@pytest.mark.parametrize(("kind", "depth", "clear", "other"), [
    (0, 1, 0, 1), (0, 2, 1, 2), (0, 4, 3, 9), (0, 8, 5, 100), (0, 16, 5 * 257, 100 * 257), (2, 8, 5, 100),
    (2, 16, 5 * 257, 5 * 257 + 1),
])  # fmt: skip
def test_the_transparent_value_of_a_png_is_white_at_any_depth(kind, depth, clear, other):
    channels = 3 if kind == 2 else 1
    row = np.repeat([clear, other], 8 * channels)[None].repeat(16, 0)
    found = load_image(png(row, kind, depth, chunk(b"tRNS", struct.pack(">H", clear) * channels)), 16)[0, 8, :, 0]
    scaled = other // 257 if depth == 16 else other * 255 // (2**depth - 1)
    assert (found[3], found[12]) == (255, scaled)


def test_16_bit_alpha_is_over_white():
    gray, alpha = np.full((4, 8), 100 * 257), np.repeat([[0, 65535]], 4, 1).repeat(4, 0)
    for kind, channels in ((4, [gray, alpha]), (6, [gray] * 3 + [alpha])):
        found = load_image(png(np.stack(channels, 2).reshape(4, -1), kind, 16), 8)[0, 4, :, 0]
        assert (found[1], found[6]) == (255, 100)


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_color_tiff(order, channels):
    values = RNG.integers(0, 65536, (8, 8, channels), dtype=np.uint16)
    values[..., 3:] = 65535
    found = load_image(tiff(values.astype("<u2" if order == "II" else ">u2"), order, 2), 8)[0]
    assert (found == values[..., :3] // 257).all()


def tiff(values, order: str, photometric: int, depth: int = 16, planar: int = 1, kind: int = 1) -> bytes:
    """A TIFF file of one uncompressed strip."""
    endian, channels = "<" if order == "II" else ">", values.shape[2] if values.ndim == 3 else 1
    fields = [
        (256, 4, values.shape[1]), (257, 4, values.shape[0]), (259, 3, 1), (262, 3, photometric), (273, 4, 512),
        (277, 3, channels), (278, 4, values.shape[0]), (279, 4, values.nbytes), (284, 3, planar), (339, 3, kind),
    ]  # fmt: skip
    entries = []
    for tag, form, value in fields:
        stored = struct.pack(f"{endian}I", value) if form == 4 else struct.pack(f"{endian}HH", value, 0)
        entries.append((tag, struct.pack(f"{endian}HHI", tag, form, 1) + stored))
    place = 400 if channels > 2 else None
    bits = struct.pack(f"{endian}HHI", 258, 3, channels)
    entries.append((258, bits + (struct.pack(f"{endian}I", place) if place else struct.pack(f"{endian}HH", depth, 0))))
    body = b"".join(entry for _, entry in sorted(entries))
    head = order.encode() + struct.pack(f"{endian}HIH", 42, 8, len(entries)) + body + bytes(4)
    return head.ljust(400, b"\0") + (struct.pack(f"{endian}H", depth) * channels).ljust(112, b"\0") + values.tobytes()


def test_tiffs_that_would_be_read_as_other_pixels_are_refused():
    gray = np.arange(64, dtype="<u2").reshape(8, 8)
    with pytest.raises(InputError, match="white is 0"):
        load_image(tiff(gray, "II", 0), 8)
    with pytest.raises(InputError, match="12-bit"):
        load_image(tiff(np.zeros((8, 12), np.uint8)[:, :8], "II", 1, depth=12), 8)
    with pytest.raises(InputError, match=r"unknown which is white|not read"):
        load_image(tiff(gray.astype("<i2"), "II", 1, kind=2), 8)


def test_pgm_and_ppm_of_any_largest_number():
    for largest in (1, 100, 255, 256, 1023, 65535):
        values = np.linspace(0, largest, 64).astype(int).reshape(8, 8)
        data = values.astype(">u2" if largest > 255 else "u1")
        gray = load_image(b"P5 8 8 %d\n" % largest + data.tobytes(), 8)
        color = load_image(b"P6 8 8 %d\n" % largest + data.repeat(3).tobytes(), 8)
        text = load_image(b"P3 8 8 %d # c\n" % largest + b" ".join(b"%d" % v for v in values.ravel().repeat(3)), 8)
        assert (gray == color).all()
        assert (gray == text).all()
        assert np.abs(gray[0, ..., 0] - values / largest * 255).max() <= 1
    for broken in (b"P5 8 8 1000\n12", b"P3 8 8 9\n1 2 3", b"P2 2 1 9\n1 10", b"P2 2 1 9\n1 x"):
        with pytest.raises(InputError, match="damaged"):
            load_image(broken, 8)


def test_deep_gray_is_a_picture_or_refused_never_black():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    expected = np.linspace(0, 255, 64)
    for scale in (1, 255):
        row = load_image(encoded(Image.fromarray(ramp * scale), "TIFF"), 64)[0, 0, :, 0]
        assert np.abs(row - expected).max() <= 1
    for other in (ramp * 2, ramp * 65535, -ramp, ramp * np.nan, ramp + np.inf):
        with pytest.raises(InputError, match=r"floats from|NaN"):
            load_image(Image.fromarray(other.astype(np.float32)), 64)
    for scale in (255, 65535, 2**31 - 1):
        with pytest.raises(InputError, match=r"unknown which is white|not read"):
            load_image(encoded(Image.fromarray((ramp.astype(float) * scale).astype(np.int32)), "TIFF"), 64)


# ------------------------------------------------------------------------------------------------ kinds of images


def test_an_image_may_be_a_path_bytes_a_file_a_pillow_image_or_an_array(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(NOISE), "PNG"))
    expected = load_image(path, 16)
    with path.open("rb") as file:
        file.read(10)
        for image in (
            str(path),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            file,
            Image.open(path),
            NOISE,
            Named(path),
        ):
            assert (load_image(image, 16) == expected).all()
    deep = png(np.arange(64).reshape(4, 16) * 1000, 0, 16)
    assert (load_image(Image.open(io.BytesIO(deep)), 8) == load_image(deep, 8)).all()
    gray = NOISE[..., 0]
    assert (load_image(gray, 16) == load_image(np.dstack([gray] * 3), 16)).all()
    clear = np.dstack([NOISE, np.zeros((30, 50), np.uint8)])
    assert (load_image(clear, 16) == 255).all()


class Named(os.PathLike):
    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("image", [
    NOISE[None], NOISE.astype(np.float32), NOISE[..., :2], np.zeros((0, 5, 3), np.uint8), NOISE.astype(object), 7, None,
    [NOISE], Image.new("RGB", (0, 4)), io.StringIO("text"), Image.new("I", (4, 4)), "a\0b", "x" * 5000,
])  # fmt: skip
def test_what_is_no_image_is_refused_in_one_line(image):
    with pytest.raises(InputError) as caught:
        load_image(image, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "name"), [
    (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"), (b"\0\0\0\x18ftypavif" + bytes(99), "AVIF"),
    (b"%PDF-1.7" + bytes(99), "PDF"), (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG"),
    (b"\xff\x0a" + bytes(9), "JPEG XL"),
])  # fmt: skip
def test_known_kinds_that_are_not_read_are_named(content, name):
    with pytest.raises(InputError, match=f"{name}.*not read"):
        load_image(content, 8)


def test_pipes_devices_and_large_files_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            load_image(path, 8)
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(NOISE), "PNG"))
    with pytest.raises(InputError, match="larger than"):
        load_image(tmp_path / "a.png", 8)


def test_a_palette_image_without_a_palette_is_damaged():
    with pytest.raises(InputError, match="damaged"):
        load_image(png(np.zeros((8, 8), int), 3, 8), 8)


def test_no_damaged_byte_of_any_format_escapes():
    """Any error of a decoder is one line; twenty flips of each format here, more in the fuzz tests."""
    small = Image.fromarray(NOISE[:12, :12])
    rng = np.random.default_rng(1)
    taken, refused = 0, 0
    for form in image_files.FORMATS:
        for options in ({"exif": exif(TURNED)} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {},):
            original = encoded(small, form, **options)
            for _ in range(20):
                damaged = bytearray(original)
                for position in rng.integers(len(damaged), size=3):
                    damaged[position] = rng.integers(256)
                try:
                    assert load_image(bytes(damaged), 8).shape == (1, 8, 8, 3)
                    taken += 1
                except InputError as error:
                    assert "\n" not in str(error)
                    refused += 1
    assert min(taken, refused) > len(image_files.FORMATS)
