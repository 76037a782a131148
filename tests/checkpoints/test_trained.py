"""Checkpoints that hold only what was trained: put on their base again, they are the trained model."""

import json
from types import SimpleNamespace

import pytest
import torch

from himix_edge import load_checkpoint
from himix_edge.checkpoints import save_trained, trained
from himix_edge.checkpoints.assemble import model_weights
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.checkpoints.source import open_source
from himix_edge.checkpoints.trained import Base, overlay
from himix_edge.errors import InputError
from tests.conftest import TINY

LINEAR = "model.layers.1.mlp.up_proj"
IMAGE = "model.layers.0.self_attn.k_proj_img.weight"


@pytest.fixture
def folder(tmp_path, tiny_checkpoint, text, monkeypatch):
    """A checkpoint of one adapter and one injection weight on a base that packages would bring."""
    base = load_checkpoint(tiny_checkpoint)
    weights = model_weights(base)
    monkeypatch.setattr("himix_edge.checkpoints.source.base_weights", lambda _: dict(weights))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{LINEAR}.lora_A": torch.randn(2, 64, generator=generator).half(),
        f"{LINEAR}.lora_B": torch.randn(96, 2, generator=generator).half(),
        IMAGE: torch.randn(32, 32, generator=generator).half(),
    }
    out = tmp_path / "trained"
    save_trained(out, TINY, weights, tensors, 2.0, text, {"seed": 1}, Base("smollm2-135m", "efficientnet-lite0"))
    return SimpleNamespace(path=out, base=base.state_dict(), tensors=tensors)


def test_what_was_trained_is_put_on_its_base(folder):
    model = load_checkpoint(folder.path).state_dict()
    change = 2.0 * folder.tensors[f"{LINEAR}.lora_B"].float() @ folder.tensors[f"{LINEAR}.lora_A"].float()
    assert torch.equal(model[f"{LINEAR}.weight"], folder.base[f"{LINEAR}.weight"] + change)
    assert torch.equal(model[IMAGE], folder.tensors[IMAGE].float())
    for name, tensor in folder.base.items():
        if name not in (f"{LINEAR}.weight", IMAGE):
            assert torch.equal(model[name], tensor), name
    assert sum(file.stat().st_size for file in folder.path.iterdir()) < 10_000  # and nothing else was stored
    assert open_source(folder.path).provenance == {"seed": 1}


def test_the_tokenizer_comes_from_the_base(folder, text, monkeypatch):
    monkeypatch.setattr("himix_edge.checkpoints.source.fetch", lambda name: f"{name}.gguf")
    monkeypatch.setattr("himix_edge.checkpoints.source._gguf", lambda path: SimpleNamespace(
        load_tokenizer=lambda: text.tokenizer))  # fmt: skip
    assert open_source(folder.path).load_text().encode_conversation([("a", "b")]) == text.encode_conversation(
        [("a", "b")]
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"decoder": "/etc/passwd", "tower": "efficientnet-lite0"}, "no weights are known"),
        ({"decoder": "smollm2-135m", "tower": "siglip"}, "no weights are known"),
        ({"decoder": "smollm2-135m"}, "tower: Field required"),
        ({"decoder": "smollm2-135m", "tower": "efficientnet-lite0", "lora_scale": "big"}, "lora_scale"),
        ({"decoder": "smollm2-135m", "tower": "efficientnet-lite0", "lora_scale": "2.0"}, "lora_scale"),
        ({"decoder": "smollm2-135m", "tower": "efficientnet-lite0", "lora_scale": 1e30}, "lora_scale"),
        ({"decoder": "efficientnet-lite0", "tower": "efficientnet-lite0"}, "no weights are known"),
        (["smollm2-135m"], "base.json"),
    ],
)
def test_a_wrong_base_is_refused(folder, content, complaint):
    (folder.path / "base.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=complaint):
        load_checkpoint(folder.path)


def test_adapters_that_do_not_fit_are_refused():
    base = as_weights({"a.weight": torch.zeros(4, 6)})
    down, up = torch.zeros(2, 6), torch.zeros(4, 2)
    assert overlay(base, as_weights({"a.lora_A": down, "a.lora_B": up}), 1.0, "x").keys() == {"a.weight"}
    for tensors, complaint in (
        ({"a.lora_A": down}, "a.lora_A fits no weight"),
        ({"a.lora_B": up}, "a.lora_B has no a.lora_A"),
        ({"b.lora_A": down, "b.lora_B": up}, "b.lora_A fits no weight"),
        ({"a.lora_A": torch.zeros(2, 5), "a.lora_B": up}, "a.lora_A fits no weight"),
        ({"a.lora_A": torch.zeros(3, 6), "a.lora_B": up}, "different ranks"),
        ({"a.lora_A": torch.zeros(2), "a.lora_B": up}, "fits no weight"),
    ):
        with pytest.raises(InputError, match=complaint):
            overlay(base, as_weights(tensors), 1.0, "x")


def test_packages_of_the_base_are_known():
    assert trained.PACKAGES.keys() >= {"smollm2-135m", "efficientnet-lite0"}
