"""The HiMix authors' layout, prefixed tensors or a folder for each part; sharded Hugging Face folders; convert."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from himix_edge import load_checkpoint
from himix_edge.checkpoints import open_source, save_source
from himix_edge.checkpoints.fresh import fresh_weights
from himix_edge.checkpoints.hub import is_hub_id
from himix_edge.cli import himix
from himix_edge.errors import InputError
from tests.model.test_model import GOLDEN

TEXT = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False}  # fmt: skip
VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 7}  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    """A random Llama and a random SigLIP tower of transformers, and injection weights for them."""
    torch.manual_seed(0)
    language, tower = (
        LlamaForCausalLM(LlamaConfig(**TEXT)).eval(),
        SiglipVisionModel(SiglipVisionConfig(**VISION)).eval(),
    )
    injection = {}
    for i in range(2):
        injection[f"model.layers.{i}.input_layernorm_img.weight"] = torch.rand(24) + 0.5
        for name in ("k_proj_img", "v_proj_img"):
            injection[f"model.layers.{i}.self_attn.{name}.weight"] = torch.randn(16, 24) * 0.2
    return language, tower, injection


def config_of(language, tower, **changes):
    return {
        "model_type": "tinyllava", "llm_model_name_or_path": "x", "vision_model_name_or_path": "y",
        "text_config": language.config.to_dict(), "vision_config": tower.config.to_dict(), "vision_feature_layer": -2,
        "vision_feature_select_strategy": "patch", **changes,
    }  # fmt: skip


def write_prefixed(folder, parts, **changes):
    language, tower, injection = parts
    tensors = {f"language_model.{n}": t.clone() for n, t in language.state_dict().items()}
    tensors |= {f"language_model.{name}": tensor for name, tensor in injection.items()}
    tensors |= {f"vision_tower._vision_tower.{n}": t.clone() for n, t in tower.state_dict().items()}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(language, tower, **changes)))
    return folder


def write_in_folders(folder, parts):
    language, tower, injection = parts
    for part, tensors, config in (
        ("language_model", {**language.state_dict(), **injection}, language.config),
        ("vision_tower", tower.state_dict(), tower.config),
    ):
        (folder / part).mkdir(parents=True)
        save_file({n: t.clone() for n, t in tensors.items()}, folder / part / "model.safetensors")
        (folder / part / "config.json").write_text(json.dumps(config.to_dict()))
    raw = config_of(language, tower)
    del raw["text_config"], raw["vision_config"]
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def expected_logits(parts, pixels, ids):
    """HiMix by hand: transformers' tower, then the golden-tested decoder on the features that it gives."""
    language, tower, injection = parts
    image = (pixels / 255 - 0.5) / 0.5
    features = tower(image.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-2][:, 1:]
    decoder = load_checkpoint_of_decoder(language, injection)
    return decoder(ids, vision_features=features)


def load_checkpoint_of_decoder(language, injection):
    from himix_edge.checkpoints.assemble import assemble, model_weights
    from himix_edge.checkpoints.lazy import as_weights
    from himix_edge.config import ModelConfig

    raw = {**language.config.to_dict(), "vision_hidden_size": 24}
    weights = model_weights(language) | as_weights(injection)
    return assemble(ModelConfig.from_dict(raw), weights, "decoder")


@pytest.mark.parametrize("write", [write_prefixed, write_in_folders])
def test_both_layouts_load(tmp_path, parts, write):
    model = load_checkpoint(write(tmp_path / "model", parts))
    assert (model.config.architecture, model.config.vision.num_tokens) == ("himix", 15)
    pixels, ids = torch.randint(256, (1, 28, 28, 3), dtype=torch.uint8), torch.randint(128, (1, 6))
    with torch.no_grad():
        assert torch.allclose(model(ids, pixel_values=pixels), expected_logits(parts, pixels, ids), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"vision_feature_select_strategy": "pool"}, "'pool' is not supported"),
    ({"text_config": None}, "no text_config"),
    ({"vision_config": {"model_type": "resnet"}}, "not a known tower"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, parts, changes, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint(write_prefixed(tmp_path / "model", parts, **changes))


def test_converting_it_gives_our_layout(tmp_path, parts):
    source = open_source(write_prefixed(tmp_path / "model", parts))
    nano = open_source("nano")
    with_text = dataclasses.replace(source, load_tokenizer=nano.load_tokenizer, load_template=nano.load_template)
    save_source(tmp_path / "ours", with_text)
    again = load_checkpoint(tmp_path / "ours")
    for name, tensor in load_checkpoint(tmp_path / "model").state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.fixture
def sharded(tmp_path, parts):
    """A plain Hugging Face folder in several shards, as transformers writes it."""
    parts[0].save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 3
    return tmp_path / "hf"


def test_shards_equal_transformers(sharded, parts):
    ids = torch.randint(128, (1, 9))
    model = load_checkpoint(sharded)
    assert model.config.vision_hidden_size is None
    with torch.no_grad():
        assert torch.allclose(model(ids), parts[0](ids).logits, rtol=0, atol=2e-5)


def test_broken_shards_are_named(sharded, tmp_path):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"{shard.name}: damaged"):
        load_checkpoint(sharded)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: missing"):
        load_checkpoint(sharded)
    shutil.copy(sorted(sharded.glob("*.safetensors"))[0], shard)
    with pytest.raises(InputError, match=rf"{shard.name}: no tensor"):
        load_checkpoint(sharded)
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(InputError, match="outside of the folder"):
        load_checkpoint(sharded)


def test_large_checkpoints_are_saved_in_shards(tmp_path, parts, sharded):
    from himix_edge.checkpoints.saving import save_weights

    (tmp_path / "again").mkdir()
    save_weights(tmp_path / "again", open_source(sharded).weights, None, shard_bytes=20_000)
    shutil.copy(sharded / "config.json", tmp_path / "again")
    assert len(list((tmp_path / "again").glob("model-*-of-*.safetensors"))) > 3
    first, second = load_checkpoint(sharded).state_dict(), load_checkpoint(tmp_path / "again").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_hub_when_it_cannot_be_reached(monkeypatch, tmp_path):
    assert is_hub_id("Qwen/Qwen2-0.5B")
    assert not any(is_hub_id(name) for name in ("nano", "a/b/c", "../x", "tests/golden", "/a/b"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="cannot be fetched from the hub"):
        load_checkpoint("himix-edge-tests/no-such-model")


def test_convert_adds_a_tower_and_fresh_injection_weights(tmp_path, sharded, parts):
    parts[1].save_pretrained(tmp_path / "tower")
    open_source("nano").load_tokenizer().save(str(sharded / "tokenizer.json"))
    out = tmp_path / "out"
    convert = ["convert", str(sharded), "--tower", str(tmp_path / "tower"), "--chat-template", "chatml"]
    himix.main([*convert, "--out", str(out), "--sharing", "uniform", "--injection-layers", "1", "--dtype", "float16"],
               standalone_mode=False)  # fmt: skip
    model = load_checkpoint(out)
    assert model.config.vision_rows == (None, 0)
    assert json.loads((out / "provenance.json").read_text())["converted"]["fresh_tensors"] == 3
    ids = torch.randint(128, (1, 9))
    with torch.no_grad():
        assert torch.allclose(model(ids), parts[0](ids).logits, rtol=0, atol=5e-3), "text is answered as before"
    himix.main([*convert, "--out", str(out), "--vanilla", "--force"], standalone_mode=False)
    assert load_checkpoint(out).config.architecture == "vanilla"


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "add --tower"),
    (["--tower", "siglip-so400m"], "no other tower's weights"),
    (["--tower", "TOWER", "--injection-layers", "7"], "rising numbers in 0..1"),
    (["--tower", "TOWER", "--injection-layers", "x"], "numbers separated by commas"),
    (["--tower", "TOWER", "--feature-layers", "-9"], "must be in -3..-1"),
    (["--tower", "TOWER", "--pooling", "3"], "must divide"),
    (["--tower", "efficientnet-lite0", "--pooling", "2"], "must divide the 7 cells"),
    (["--tower", "efficientnet-lite0", "--feature-layers", "-3"], "its last feature map"),
    (["--tower", "TOWER", "--chat-template", "klingon"], "one of chatml"),
])  # fmt: skip
def test_convert_refuses_what_does_not_fit(tmp_path, sharded, parts, arguments, message):
    parts[1].save_pretrained(tmp_path / "tower")
    arguments = [str(tmp_path / "tower") if word == "TOWER" else word for word in arguments]
    with pytest.raises(InputError, match=message):
        himix.main(["convert", str(sharded), "--out", str(tmp_path / "out"), *arguments], standalone_mode=False)
    assert not (tmp_path / "out").exists()


def test_fresh_weights_depend_on_name_and_seed_alone():
    shapes = {"model.layers.0.self_attn.k_proj_img.weight": (8, 16), "a.bias": (4,), "model.norm.weight": (4,)}
    first, again, other = fresh_weights(shapes), fresh_weights(dict(reversed(shapes.items()))), fresh_weights(shapes, 1)
    name = next(iter(shapes))
    assert torch.equal(first[name].read(), again[name].read())
    assert not torch.equal(first[name].read(), other[name].read())
    assert first["a.bias"].read().sum() == 0
    assert (first["model.norm.weight"].read() == 1).all()


def test_goldens_are_still_himix():
    assert load_checkpoint(GOLDEN / "qwen2_tied").config.injected_layers
