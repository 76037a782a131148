"""Images' keys and values that the server keeps: limits, restarts, damage."""

from pathlib import Path

import numpy as np
import pytest

from himix_edge.errors import InputError
from himix_edge.runtimes import ImageKV, open_checkpoint
from himix_edge.serving.answering import Question, see
from himix_edge.serving.images import ImageStore, image_key
from himix_edge.serving.metrics import Metrics


@pytest.fixture(scope="module")
def session(tiny_checkpoint):
    return open_checkpoint(tiny_checkpoint)


def image(number, slots=16):
    key = np.full((2, 2, slots, 16), number, np.float32)
    return ImageKV(key, key + 1, "model")


SIZE = image(0).key.nbytes * 2
NAMES = [image_key("model", [bytes([number])]) for number in range(6)]


def store(folder, memory=10 * SIZE, disk=1 << 20):
    return ImageStore(folder, memory, disk, Metrics())


def files(folder):
    return sorted(path.name.removesuffix(".kv") for path in folder.glob("*.kv"))


def test_a_key_names_model_and_content():
    assert (
        len({image_key(m, c) for m in ("a", "b") for c in ([b"x"], [b"y"], [b"x", b"y"], [b"y", b"x"], [b"xy"])}) == 10
    )


def test_memory_forgets_what_was_not_used_for_longest(session):
    kept = store(None, memory=3 * SIZE)
    for number in range(3):
        kept.put(NAMES[number], image(number))
    assert kept.get(NAMES[0], session) is not None
    kept.put(NAMES[3], image(3))
    assert [kept.get(name, session) is not None for name in NAMES[:4]] == [True, False, True, True]
    assert store(None, memory=0).get(NAMES[0], session) is None


def test_a_restart_finds_them_on_disk(session, tmp_path):
    first = store(tmp_path / "kept")
    for number in range(3):
        first.put(NAMES[number], image(number))
    first.close()
    again = store(tmp_path / "kept")
    found = again.get(NAMES[1], session)
    assert np.array_equal(found.key, image(1).key)
    assert again.get(NAMES[1], session) is found  # now in memory
    assert again.get(NAMES[5], session) is None
    assert (tmp_path / "kept").stat().st_mode & 0o77 == 0


def test_the_disk_has_a_limit_and_other_files_are_left_alone(session, tmp_path):
    (tmp_path / "holiday.kv").write_bytes(b"mine" * 10000)
    first = store(tmp_path, disk=1 << 20)
    first.put(NAMES[0], image(0))
    first.close()
    size = (tmp_path / f"{NAMES[0]}.kv").stat().st_size
    second = store(tmp_path, disk=2 * size)
    for number in (1, 2):
        second.put(NAMES[number], image(number))
    second.close()
    assert files(tmp_path) == sorted([NAMES[1], NAMES[2], "holiday"])
    store(tmp_path, disk=size).close()
    assert len(files(tmp_path)) == 2
    assert (tmp_path / "holiday.kv").exists()


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "gone", "folder", "NaN"])
def test_a_damaged_file_is_a_miss(session, tmp_path, damage):
    first = store(tmp_path)
    first.put(NAMES[0], image(0))
    first.close()
    path = tmp_path / f"{NAMES[0]}.kv"
    again = store(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "NaN":
        path.unlink()
        image(0).save(path)
        with path.open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\xff\xff\xff\xff")  # NaN
    else:
        path.unlink()
        if damage != "gone":
            path.write_bytes(b"" if damage == "empty" else b"x" * 4000)
    assert again.get(NAMES[0], session) is None
    again.put(NAMES[0], image(0))
    again.close()


def test_a_disk_that_takes_nothing_is_a_miss(session, tmp_path, monkeypatch):
    kept = store(tmp_path)

    def full(self, path, bits=32):
        raise InputError(f"{path}: cannot write here: No space left on device")

    monkeypatch.setattr(ImageKV, "save", full)
    kept.put(NAMES[0], image(0))
    kept.close()
    assert kept.get(NAMES[0], session) is not None
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="images cannot be kept here"):
        store(tmp_path / "file")


def test_fewer_bits_are_another_key_and_take_less(session, tmp_path):
    assert len({image_key("model", [b"x"], bits) for bits in (32, 16, 8)}) == 3
    large = image(1, slots=200)
    for bits, share in ((16, 0.51), (8, 0.35)):
        kept = ImageStore(tmp_path / str(bits), 1 << 30, 1 << 30, Metrics(), bits)
        name = image_key("model", [b"x"], bits)
        kept.put(name, large.in_bits(bits))
        kept.close()
        path = tmp_path / str(bits) / f"{name}.kv"
        assert path.stat().st_size < share * large.nbytes
        assert ImageStore(tmp_path / str(bits), 1 << 30, 1 << 30, Metrics(), bits).get(name, session).bits == bits


def test_what_is_seen_first_is_what_is_kept(session, probe_image, tmp_path):
    """The first answer about a picture is made of what later ones are made of."""
    picture = Path(probe_image).read_bytes()
    asked = Question(None, (), "?", (picture,), 1, 2, 0.0, 1.0, None, (), 0, None)
    kept = ImageStore(tmp_path, 1 << 24, 1 << 24, Metrics(), 8)
    first = see(session, asked, kept)
    assert first.bits == 8
    assert see(session, asked, kept) is first
    kept.close()
    again = see(session, asked, ImageStore(tmp_path, 1 << 24, 1 << 24, Metrics(), 8))
    assert (again.key == first.key).all()
    assert see(session, asked, ImageStore(tmp_path, 1 << 24, 1 << 24, Metrics())).bits == 32
