"""A saved ImageKV is the one that was saved, however a runtime laid out its arrays."""

import numpy as np

from himix_edge.runtimes import ImageKV


def test_transposed_arrays_are_saved_as_they_read(tmp_path):
    rng = np.random.default_rng(0)
    key, value = (rng.normal(size=(3, 2, 5, 4)).astype(np.float32).transpose(1, 0, 2, 3) for _ in range(2))
    assert not key.flags["C_CONTIGUOUS"]
    ImageKV(key, value, "model", 7).save(tmp_path / "image.kv")
    loaded = ImageKV.load(tmp_path / "image.kv")
    assert (loaded.key == key).all()
    assert (loaded.value == value).all()
    assert (loaded.model_id, loaded.next_position) == ("model", 7)
