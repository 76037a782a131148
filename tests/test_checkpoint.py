"""Checkpoints: what is saved comes back, and what is wrong is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from himix_edge import load_checkpoint, save_checkpoint
from himix_edge.config import ModelConfig, RopeScaling
from himix_edge.errors import InputError
from tests.conftest import TINY


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_round_trip(tiny, tmp_path):
    save_checkpoint(tmp_path / "model", tiny)
    again = load_checkpoint(tmp_path / "model")
    assert again.config == tiny.config
    ids, pixels = torch.tensor([[3, 5]]), torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(again(ids, pixel_values=pixels), tiny(ids, pixel_values=pixels))


def test_a_failed_save_leaves_the_old_checkpoint(tiny, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "model", tiny)
    monkeypatch.setattr(
        "himix_edge.checkpoints.saving.save_file",
        lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(tmp_path / "model", tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_size": 80}, "has shape"),
    ({"num_hidden_layers": 3}, "missing model.layers.2"),
    ({"num_hidden_layers": 1}, "surplus model.layers.1"),
    ({"model_type": "llama"}, "surplus .*bias"),
    ({"model_type": "gpt2"}, "model_type"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"num_attention_heads": 3}, "multiple of"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
    ({"use_sliding_window": True}, "sliding"),
    ({"vision_hidden_size": 48}, "contradicts"),
    ({"vocab_size": 10**15}, "out of range"),
    ({"num_hidden_layers": 10**6}, "out of range"),
    ({"hidden_size": "many"}, "hidden_size"),
])  # fmt: skip
def test_a_config_that_contradicts_the_weights_is_refused(copy, changes, message):
    edit_config(copy, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(copy)


def test_a_truncated_file_is_refused(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(copy)


def test_a_pickle_is_never_opened(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        load_checkpoint(copy)


def test_a_surplus_tensor_is_named(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "mystery": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(InputError, match="surplus mystery"):
        load_checkpoint(copy)


@pytest.mark.parametrize("name", ["nonsense", "/nowhere/at/all", "../assets/nano"])
def test_an_unknown_model_is_named(name):
    with pytest.raises(InputError, match="shipped"):
        load_checkpoint(name)


def test_transformers_5_rope_parameters_are_read():
    raw = TINY.to_dict()
    del raw["rope_theta"], raw["rope_scaling"]
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    plain = ModelConfig.from_dict({**raw, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})
    assert (plain.decoder.rope_theta, plain.decoder.rope_scaling) == (7.0, None)
    both = {"rope_type": "llama3", "rope_theta": 7.0, **scaling}
    assert ModelConfig.from_dict({**raw, "rope_parameters": both}).decoder.rope_scaling == RopeScaling(**scaling)


def test_config_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
