"""The injection variants, each by the property that defines it, in PyTorch and exported."""

import dataclasses
import json

import pytest
import torch

from himix_edge.checkpoints import save_checkpoint
from himix_edge.checkpoints.source import random_source
from himix_edge.config import Connector, Injection, ModelConfig
from himix_edge.errors import InputError
from himix_edge.evaluation.flops import count_flops, parameters
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.model import build_model
from himix_edge.parts import part_of
from himix_edge.runtimes import open_bundle
from tests.conftest import TINY

DECODER = dataclasses.replace(TINY.decoder, num_hidden_layers=4)
TOWER = dataclasses.replace(TINY.vision, num_hidden_layers=4)
LEVELS = dataclasses.replace(TOWER, feature_layers=(-1, -3))
VARIANTS = {
    "subset": ModelConfig("himix", DECODER, 32, TOWER, Injection(layers=(1, 3))),
    "uniform": ModelConfig("himix", DECODER, 32, TOWER, Injection(sharing="uniform")),
    "uniform subset": ModelConfig("himix", DECODER, 32, TOWER, Injection(layers=(0, 2), sharing="uniform")),
    "levels": ModelConfig("himix", DECODER, 64, LEVELS, Injection(sharing="levels")),
    "levels without sharing": ModelConfig("himix", DECODER, 64, LEVELS),
    "pooled": ModelConfig("himix", DECODER, 32, dataclasses.replace(TOWER, pooling=2)),
    "placed subset": ModelConfig("himix", DECODER, 32, TOWER, Injection(layers=(1, 3), positions="sequence")),
    "mixed": ModelConfig(
        "himix", DECODER, 32, TOWER, Injection(positions="sequence", mixing=2, slots=True), Connector(pool=2)
    ),
}
USUAL = ("subset", "mixed")


def model_of(name):
    torch.manual_seed(0)
    return build_model(VARIANTS[name]).eval().requires_grad_(False)


def pixels(seed=0):
    return torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


IDS = torch.tensor([[5, 9, 2, 7, 1]])


def test_layers_outside_the_subset_have_no_vision_slots_and_no_weights():
    model = model_of("subset")
    cache = model.inject(model.encode_image(pixels()))
    assert [key.shape[2] for key in cache.key] == [0, 16, 0, 16]
    owners = {name.split(".")[2] for name in model.state_dict() if "_img" in name}
    assert owners == {"1", "3"}
    assert model.config.vision_rows == (None, 0, None, 1)
    assert model.config.layers_without_image == (0, 2)


def test_a_subset_equals_full_injection_whose_other_layers_are_masked():
    """By hand: the slots of layers 0 and 2 taken out of a full model's cache."""
    model = model_of("subset")
    full = build_model(dataclasses.replace(model.config, injection=Injection())).eval().requires_grad_(False)
    full.load_state_dict(model.state_dict(), strict=False)
    cache = full.inject(full.encode_image(pixels()))
    for layer in (0, 2):
        cache.key[layer], cache.value[layer] = cache.key[layer][:, :, :0], cache.value[layer][:, :, :0]
    assert torch.equal(full.decode(IDS, cache)[0], model(IDS, pixel_values=pixels()))


def test_uniform_injection_gives_every_layer_the_same_keys_and_values():
    model = model_of("uniform")
    cache = model.inject(model.encode_image(pixels()))
    assert all(torch.equal(key, cache.key[0]) for key in cache.key)
    assert sum("k_proj_img.weight" in name for name in model.state_dict()) == 1
    assert model.config.num_vision_rows == 1
    # the same as full injection whose layers all hold the shared projection's weights
    full = build_model(dataclasses.replace(model.config, injection=Injection())).eval().requires_grad_(False)
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("shared_injection")}
    for layer in range(4):
        for name, tensor in model.shared_injection.state_dict().items():
            place = name if "norm" in name else f"self_attn.{name}"
            state[f"model.layers.{layer}.{place}"] = tensor
    full.load_state_dict(state)
    expected = full(IDS, pixel_values=pixels())
    assert torch.allclose(model(IDS, pixel_values=pixels()), expected, rtol=0, atol=1e-6)


def test_levels_feed_blocks_of_layers_through_connectors_of_their_own():
    model = model_of("levels")
    assert model.config.vision_rows == (0, 0, 1, 1)
    features = model.encode_image(pixels())
    assert features.shape == (1, 16, 64)
    before = model.inject(features)
    features[..., :32] += 1  # the first level only
    after = model.inject(features)
    changed = [not torch.equal(old, new) for old, new in zip(before.key, after.key, strict=True)]
    assert changed == [True, True, False, False]
    assert len(model.shared_injection.connectors) == 2
    assert sum("k_proj_img.weight" in name for name in model.state_dict()) == 1


def test_levels_are_the_hidden_states_they_name():
    tower = model_of("levels").vision_tower
    single = build_model(dataclasses.replace(TINY, vision=dataclasses.replace(TOWER, feature_layers=(-3,)))).eval()
    single.vision_tower.load_state_dict(tower.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(tower(pixels())[..., 32:], single.vision_tower(pixels()))


def test_pooling_reduces_the_slots():
    model = model_of("pooled")
    assert model.inject(model.encode_image(pixels())).key[0].shape[2] == 4


def test_a_mixing_injection_owns_its_layers_and_no_projection_below_them():
    model = model_of("mixed")
    cache = model.inject(model.encode_image(pixels()))
    assert [key.shape[2] for key in cache.key] == [4] * 4
    assert {name.split(".")[2] for name in model.state_dict() if "_img" in name} == {"2", "3"}
    injection = {name for name in model.state_dict() if part_of(name) == "injection"}
    assert {name.split(".")[0] for name in injection} == {"connector", "mixer", "model"}
    assert parameters(model.config)["vision_injector"] == sum(model.state_dict()[name].numel() for name in injection)
    assert model.state_dict()["model.layers.3.slots_img.key"].shape == (4, 32)
    mixed, plain = count_flops(model.config), count_flops(VARIANTS["pooled"])
    assert mixed.vision_injector > plain.vision_injector
    assert (mixed.prefill, mixed.token) == (plain.prefill, plain.token)


def test_what_is_as_before_is_not_written():
    assert VARIANTS["subset"].to_dict()["injection"] == {"layers": (1, 3), "sharing": "none"}
    assert ModelConfig.from_dict(json.loads(json.dumps(VARIANTS["mixed"].to_dict()))) == VARIANTS["mixed"]


@pytest.mark.parametrize(("name", "precision"), [
    pytest.param(name, bits, marks=() if (name in USUAL and bits == "int8") else pytest.mark.slow)
    for name in VARIANTS for bits in ("none", "int8")
])  # fmt: skip
def test_every_variant_exports_through_the_gate(tmp_path, text, name, precision):
    """Slow: adds the other variants, and float."""
    source = random_source(VARIANTS[name], "tiny")
    save_checkpoint(tmp_path / "model", build_model(source.config), text)
    request = ExportRequest(str(tmp_path / "model"), "onnx", precision, tmp_path / "out", probe_questions=3)
    bundle = export(plan(request))
    session = open_bundle(bundle.folder)
    image = session.encode_image(bundle.folder / bundle.manifest.selftest.image)
    rows = source.config.num_vision_rows
    assert image.key.shape == (rows, 2, source.config.tile_tokens, 16)
    image.save(tmp_path / "image.kv")
    assert session.answer("what is it?", image) == session.answer("what is it?", image.load(tmp_path / "image.kv"))
    assert isinstance(session.answer("what is it?"), str)


@pytest.mark.parametrize(("injection", "message"), [
    (Injection(layers=(4,)), "0..3"), (Injection(layers=(1, 0)), "rising"), (Injection(layers=()), "rising"),
    (Injection(mixing=5), "beyond layer 3"), (Injection(layers=(0, 1), mixing=3), "beyond layer 1"),
    (Injection(mixing=-1), "mixing"), (Injection(sharing="uniform", mixing=0), "of their own"),
    (Injection(sharing="uniform", slots=True), "of their own"), (Injection(positions="before"), "positions"),
])  # fmt: skip
def test_injections_that_cannot_be_are_refused(injection, message):
    raw = {**ModelConfig("himix", DECODER, 32, TOWER).to_dict(), "injection": dataclasses.asdict(injection)}
    with pytest.raises(InputError, match=message):
        ModelConfig.from_dict(raw)


def test_a_plain_decoder_takes_no_image():
    model = build_model(ModelConfig("himix", DECODER)).eval()
    assert model(IDS).shape == (1, 5, 400)
    with pytest.raises(ValueError, match="takes no image"):
        model(IDS, vision_features=torch.zeros(1, 3, 8))
