"""A saved ImageKV is the one that was saved, however a runtime laid out its arrays; a file that is none is refused."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from himix_edge.errors import InputError
from himix_edge.runtimes import ImageKV

SHAPE = (2, 2, 5, 4)
METADATA = {"format": "himix-image-kv-1", "model_id": "model", "next_position": "0"}


def test_transposed_arrays_are_saved_as_they_read(tmp_path):
    rng = np.random.default_rng(0)
    key, value = (rng.normal(size=(3, 2, 5, 4)).astype(np.float32).transpose(1, 0, 2, 3) for _ in range(2))
    assert not key.flags["C_CONTIGUOUS"]
    ImageKV(key, value, "model", 7).save(tmp_path / "image.kv")
    loaded = ImageKV.load(tmp_path / "image.kv")
    assert (loaded.key == key).all()
    assert (loaded.value == value).all()
    assert (loaded.model_id, loaded.next_position) == ("model", 7)


def saved(path, key=None, value=None, **metadata):
    ones = np.ones(SHAPE, np.float32)
    arrays = {"key": ones if key is None else key, "value": ones if value is None else value}
    save_file(arrays, path, {name: text for name, text in (METADATA | metadata).items() if text is not None})
    return path


@pytest.mark.parametrize("position", ["-1", "1e2", " 5", "1_0", "٣", "9" * 5000, "", "0x1", None])
def test_positions_that_no_image_has(tmp_path, position):
    with pytest.raises(InputError, match="next_position") as caught:
        ImageKV.load(saved(tmp_path / "a.kv", next_position=position))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("wrong", [
    np.full(SHAPE, np.nan, np.float32), np.full(SHAPE, -np.inf, np.float32), np.ones(SHAPE), np.ones(SHAPE, np.float16),
    np.ones(SHAPE, np.int32), np.ones((2, 2, 5, 3), np.float32), np.ones((2, 2, 20), np.float32),
])  # fmt: skip
def test_arrays_that_no_model_gives(tmp_path, wrong):
    good = np.ones(SHAPE, np.float32)
    for key, value in ((wrong, good), (good, wrong)):
        with pytest.raises(InputError, match=r"float32|NaN or infinity"):
            ImageKV.load(saved(tmp_path / "a.kv", key, value))
        with pytest.raises(InputError, match=r"float32|NaN or infinity"):
            ImageKV(key, value, "model")


def test_bfloat16_and_other_formats(tmp_path):
    content = saved(tmp_path / "a.kv").read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    size = 2 * int(np.prod(SHAPE))
    for name, start in (("key", 0), ("value", size)):
        header[name].update(dtype="BF16", data_offsets=[start, start + size])
    text = json.dumps(header).encode()
    (tmp_path / "b.kv").write_bytes(struct.pack("<Q", len(text)) + text + bytes(2 * size))
    with pytest.raises(InputError, match="float32"):
        ImageKV.load(tmp_path / "b.kv")
    with pytest.raises(InputError, match="not a saved ImageKV"):
        ImageKV.load(saved(tmp_path / "c.kv", format=None))


def test_pipes_large_files_and_large_headers_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        ImageKV.load(tmp_path / "pipe")
    with pytest.raises(InputError, match="larger than"):
        ImageKV.load(saved(tmp_path / "a.kv"), max_bytes=100)
    (tmp_path / "b.kv").write_bytes(struct.pack("<Q", 90 << 20) + bytes(1000))
    with pytest.raises(InputError, match="header"):
        ImageKV.load(tmp_path / "b.kv")
