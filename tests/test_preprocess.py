"""Images: golden pixels for the apps to reproduce, and files that are not what they seem."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from himix_edge.errors import InputError
from himix_edge.preprocess import load_image, resize


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x ^ y) & 255], 2).astype(np.uint8)
    )


def test_an_image_of_the_right_size_is_untouched(tmp_path):
    gradient(32, 32).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png", 32)[0] == np.asarray(gradient(32, 32))).all()


def test_golden_pixels(tmp_path):
    gradient(301, 97).save(tmp_path / "a.png")
    pixels = load_image(tmp_path / "a.png", 64)
    assert pixels.shape == (1, 64, 64, 3)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == "b979a86862b5a40c302f13986a7f0ed3e132c275a223a8aec5e3257fb7d00ebd"


def test_golden_pixels_of_a_tall_image():
    """Where Pillow 13's own resize runs the vertical pass first; the digest is that of the horizontal one first."""
    digest = hashlib.sha256(resize(gradient(97, 301), 64).tobytes()).hexdigest()
    assert digest == "9d258b385ae56c3b0f720ea0acc56e2e5a774a814b69c089d97a1ec607d334ba"


def test_golden_pixels_bicubic(tmp_path):
    gradient(301, 97).save(tmp_path / "a.png")
    for size, expected in (
        (64, "317dd92d7fe1b351774ba87dc2c2ea0523e39f78642dbe5a8bd080616653de59"),
        (320, "4762ef2fa7a123ff3770bdac7140f1d4b6dae87e9b87948e18bd523916de8045"),
    ):  # smaller and larger than the image
        digest = hashlib.sha256(load_image(tmp_path / "a.png", size, "bicubic").tobytes()).hexdigest()
        assert digest == expected


def test_bicubic_is_keys_cubic_over_a_growing_support():
    """Against the definition in float64: a = -0.5, the kernel as wide as the reduction, weights that sum to one."""
    source, size = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), 16

    def weights(length):
        scale = max(1.0, length / size)
        centers = (np.arange(size) + 0.5) * length / size
        x = np.abs((np.arange(length)[None] + 0.5 - centers[:, None]) / scale)
        cubic = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return cubic / cubic.sum(1, keepdims=True)

    wide = np.einsum("ow,hwc->hoc", weights(56), source.astype(float)).clip(0, 255)
    expected = np.einsum("oh,hwc->owc", weights(40), wide).clip(0, 255)
    assert np.abs(resize(Image.fromarray(source), size, "bicubic")[0] - expected).max() <= 1.5


def test_one_pixel_is_enough(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png", 8) == [10, 20, 30]).all()


def test_exif_orientation_is_applied(tmp_path):
    image = gradient(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.png")
    assert (load_image(tmp_path / "a.png", 16) == load_image(tmp_path / "b.png", 16)).all()


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (load_image(tmp_path / "a.gif", 8) == [255, 0, 0]).all()


def test_cmyk_16_bit_palette_gray_and_transparent_images_become_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(load_image(tmp_path / "cmyk.jpg", 8).astype(int) - [255, 0, 0]).max() <= 2
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(tmp_path / "deep.png")
    assert (load_image(tmp_path / "deep.png", 8) == 128).all()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", 8) == 255).all()
    Image.new("LA", (8, 8), (40, 255)).save(tmp_path / "la.png")
    assert (load_image(tmp_path / "la.png", 8) == 40).all()
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    assert (load_image(tmp_path / "bit.png", 8) == 255).all()
    Image.new("F", (8, 8), 99.0).save(tmp_path / "float.tiff")
    assert (load_image(tmp_path / "float.tiff", 8) == 99).all()


def test_a_huge_image_is_refused_unread(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match="100 megapixels"):
        load_image(tmp_path / "bomb.png", 64)
    Image.new("1", (11_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="100 megapixels"):
        load_image(tmp_path / "large.png", 64)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("text.png", b"I am text", "not an image"),
    ("empty.png", b"", "not an image"),
    ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
    ("cut.png", None, "damaged"),
])  # fmt: skip
def test_files_that_are_no_images(tmp_path, name, content, message):
    if content is None:
        gradient(64, 64).save(tmp_path / "whole.png")
        content = (tmp_path / "whole.png").read_bytes()
        content = content[: len(content) // 2]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_image(tmp_path / name, 32)


def test_a_missing_image_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such image"):
        load_image(tmp_path / "none.png", 32)
    with pytest.raises(InputError, match="folder"):
        load_image(tmp_path, 32)


def test_no_damaged_byte_escapes_as_a_traceback(tmp_path):
    gradient(48, 48).save(tmp_path / "a.png")
    gradient(48, 48).save(tmp_path / "a.jpg")
    rng = np.random.default_rng(0)
    taken, refused = 0, 0
    for name in ("a.png", "a.jpg"):
        original = bytearray((tmp_path / name).read_bytes())
        for _ in range(150):
            damaged = bytearray(original)
            for position in rng.integers(len(damaged), size=3):
                damaged[position] = rng.integers(256)
            (tmp_path / "x").write_bytes(damaged)
            try:
                assert load_image(tmp_path / "x", 16).shape == (1, 16, 16, 3)
                taken += 1
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
    assert min(taken, refused) > 10
