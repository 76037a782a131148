"""The emoji drawings: fetched, checked, kept. The slow test adds the real packages, 270 MB through npm."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from himix_edge.data import emoji_drawings
from himix_edge.data.emoji_concepts import code_points
from himix_edge.data.emoji_drawings import SIZE, STYLES, drawings
from himix_edge.errors import InputError
from himix_edge.files import sha256


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small archive of npm's form in the place of the real one, and an empty cache."""
    path = tmp_path / "package.tgz"
    style = STYLES["noto"]

    def write(leave_out=(), size=64, color=(200, 30, 30, 255)):
        with tarfile.open(path, "w:gz") as tar:
            for name, code in code_points().items():
                if name in leave_out:
                    continue
                buffer = io.BytesIO()
                Image.new("RGBA", (size, size), color).save(buffer, "PNG")
                member = tarfile.TarInfo(style.pattern.format(code.lower()))
                member.size = len(buffer.getvalue())
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
        return path

    write()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(emoji_drawings, "_fetch", lambda archive, folder: path)
    drawings.cache_clear()
    yield write
    drawings.cache_clear()


def test_drawings_are_taken_once_and_kept(package, monkeypatch, tmp_path):
    found = drawings("noto")
    assert set(found) == set(code_points())
    assert {image.size for image in found.values()} == {(SIZE, SIZE)}
    drawings.cache_clear()
    monkeypatch.setattr(emoji_drawings, "_fetch", lambda archive, folder: pytest.fail("fetched again"))
    assert np.asarray(drawings("noto")["dog"])[9, 9].tolist() == [200, 30, 30, 255]


def test_a_damaged_cache_is_made_anew(package, tmp_path):
    drawings("noto")
    (kept,) = (tmp_path / "cache" / "himix-edge").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    drawings.cache_clear()
    assert len(drawings("noto")) == len(code_points())


def test_an_archive_that_lacks_a_drawing_is_refused_and_nothing_is_kept(package, tmp_path):
    package(leave_out={"dog"})
    with pytest.raises(InputError, match="lacks package"):
        drawings("noto")
    assert list(tmp_path.rglob("emoji-*")) == []


def test_what_an_old_style_lacks_is_another_s(package):
    drawings("noto")
    package(leave_out={"dog"}, color=(10, 20, 30, 255))
    found = drawings("blob")
    assert np.asarray(found["cat"])[9, 9].tolist() == [10, 20, 30, 255]
    assert np.asarray(found["dog"])[9, 9].tolist() == [200, 30, 30, 255]
    assert STYLES["blob"].member("2764-FE0F") == "package/img/google/64/2764.png"


def test_without_npm_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    drawings.cache_clear()
    with pytest.raises(InputError, match="install Node"):
        drawings("noto")


def test_another_archive_under_the_name_is_refused(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho not it > x.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match="its hash differs"):
        emoji_drawings._fetch(STYLES["fluent"], tmp_path)
    assert sha256(tmp_path / "x.tgz") != STYLES["fluent"].sha256


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_the_real_packages(tmp_path, monkeypatch, style):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawings.cache_clear()
    found = drawings(style)
    drawings.cache_clear()
    for name, image in found.items():
        opaque = np.asarray(image)[..., 3] > 128
        assert opaque.mean() > 0.1, name
    apple = np.asarray(found["red apple"]).reshape(-1, 4)
    red = apple[apple[:, 3] > 200].mean(0)
    assert red[0] > red[1] + 50
