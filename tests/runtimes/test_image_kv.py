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


def normal(shape=(3, 2, 7, 16), seed=0):
    rng = np.random.default_rng(seed)
    key, value = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    key[:, 1, :, 3] *= 100  # a channel that stands out
    value[:, :, 2] *= 0.001  # a token that is small
    return ImageKV(key, value, "model", 5)


def test_8_bits_are_the_nearest_of_255_steps_of_a_channel_and_a_token():
    image = normal()
    kept = image.in_bits(8)
    for axis, before, after in ((2, image.key, kept.key), (3, image.value, kept.value)):
        step = np.abs(before).max(axis, keepdims=True) / 127
        assert (np.abs(after - before) <= step * 0.5001).all()
        assert after.dtype == np.float32
    assert (kept.bits, kept.shape, kept.tokens, kept.model_id, kept.next_position) == (8, (3, 2, 7, 16), 7, "model", 5)
    numbers, channels, tokens = image.key.size, 3 * 2 * 16, 3 * 2 * 7
    assert (image.nbytes, kept.nbytes) == (8 * numbers, 2 * numbers + 4 * (channels + tokens))


@pytest.mark.parametrize("bits", [16, 8])
def test_fewer_bits_are_saved_and_loaded_as_they_are(tmp_path, bits):
    image = normal((2, 2, 64, 32))
    kept = image.in_bits(bits)
    image.save(tmp_path / "a.kv", bits)
    image.save(tmp_path / "float.kv")
    kept.save(tmp_path / "b.kv")
    assert (ImageKV.load(tmp_path / "b.kv").key == kept.key).all()
    assert (tmp_path / "a.kv").stat().st_size < (tmp_path / "float.kv").stat().st_size * (bits + 3) / 32
    loaded = ImageKV.load(tmp_path / "a.kv")
    assert (loaded.key == kept.key).all()
    assert (loaded.value == kept.value).all()
    assert (loaded.bits, loaded.model_id, loaded.next_position) == (bits, "model", 5)
    assert loaded.in_bits(32) is loaded
    assert ImageKV.load(tmp_path / "float.kv").bits == 32
    image.save(tmp_path / "a.kv")  # replaces what has another format
    assert ImageKV.load(tmp_path / "a.kv").bits == 32


def test_zeros_and_no_tokens_have_8_bits_too():
    nothing, zeros = np.zeros((2, 2, 0, 4), np.float32), np.zeros(SHAPE, np.float32)
    assert ImageKV(nothing, nothing, "model").in_bits(8).key.shape == (2, 2, 0, 4)
    assert (ImageKV(zeros, zeros, "model").in_bits(8).value == 0).all()


def test_bits_that_there_are_not():
    with pytest.raises(InputError, match="32, 16 or 8"):
        normal().in_bits(4)
    large = np.full(SHAPE, 1e5, np.float32)
    with pytest.raises(InputError, match="65504"):
        ImageKV(large, large, "model").in_bits(16)


def packed(path, bits=8, change=lambda tensors, metadata: None):
    """A saved ImageKV of fewer bits of which `change` made something else."""
    kept = normal().in_bits(bits)
    tensors = dict(kept._tensors())
    metadata = METADATA | {"format": "himix-image-kv-2"}
    change(tensors, metadata)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata)
    return path


def put(name, change):
    return lambda tensors, metadata: tensors.update({name: change(tensors[name])})


def number(value):
    def change(array):
        array = array.copy()
        array.flat[3] = value
        return array

    return change


@pytest.mark.parametrize(("change", "words"), [
    (put("key_scale", number(np.nan)), "NaN or infinity"),
    (put("value_scale", number(np.inf)), "NaN or infinity"),
    (put("value_scale", number(3e38)), "NaN or infinity"),
    (put("key_scale", number(0)), "NaN or infinity"),
    (put("key_scale", number(-1)), "NaN or infinity"),
    (put("key_scale", lambda scale: scale.astype(np.float16)), "key_scale"),
    (put("key_scale", lambda scale: scale[..., :1]), "key_scale"),
    (put("value_scale", lambda scale: scale[:, :, :1]), "value_scale"),
    (lambda tensors, metadata: tensors.pop("value_scale"), "value_scale"),
    (lambda tensors, metadata: tensors.update(more=np.zeros(1, np.float32)), "more"),
    (put("value", lambda numbers: numbers.astype(np.float16)), "one shape"),
    (put("key", lambda numbers: numbers.astype(np.float32)), "one shape"),
    (lambda tensors, metadata: metadata.update(format="himix-image-kv-1"), "not float32"),
    (lambda tensors, metadata: metadata.update(format="himix-image-kv-3"), "not a saved ImageKV"),
])  # fmt: skip
def test_damaged_files_of_8_bits(tmp_path, change, words):
    assert ImageKV.load(packed(tmp_path / "good.kv")).bits == 8
    with pytest.raises(InputError, match=words) as caught:
        ImageKV.load(packed(tmp_path / "a.kv", change=change))
    assert "\n" not in str(caught.value)


def test_infinity_in_16_bits(tmp_path):
    with pytest.raises(InputError, match="NaN or infinity"):
        ImageKV.load(packed(tmp_path / "a.kv", 16, put("value", number(np.inf))))


def test_a_small_file_of_what_is_large_in_float32_is_refused(tmp_path):
    image = normal((2, 2, 100, 64))
    image.save(tmp_path / "a.kv", 8)
    size = (tmp_path / "a.kv").stat().st_size
    with pytest.raises(InputError, match="float32"):
        ImageKV.load(tmp_path / "a.kv", max_bytes=2 * size)
