"""Qwen3 and Mistral against transformers' own classes: logits, greedy tokens, names, and what their configs may say."""

import json

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from himix_edge import load_checkpoint
from himix_edge.checkpoints.source import open_source
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.model import build_model

SIZES = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
FAMILIES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 24}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}


def reference(family, **settings):
    """A random model whose norms have weights of their own."""
    config_type, model_type, own = FAMILIES[family]
    torch.manual_seed(1)
    model = model_type(config_type(**{**SIZES, **own, **settings})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_hugging_face(family, tied, tmp_path):
    """From the folder that transformers writes; its names are all ours and no other."""
    theirs = reference(family, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    ours = load_checkpoint(tmp_path)
    assert {"lm_head.weight"} >= theirs.state_dict().keys() ^ ours.state_dict().keys()
    ids = torch.randint(101, (2, 32))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert torch.allclose(ours(ids), expected, rtol=0, atol=2e-5)
        first, cache = ours.decode(ids[:, :7])
        rest, cache = ours.decode(ids[:, 7:], cache)
        assert torch.allclose(torch.cat([first, rest], 1), expected, rtol=0, atol=2e-5)
        written = theirs.generate(ids, max_new_tokens=32, do_sample=False)[:, 32:]
        token, tokens = expected[:, -1:].argmax(-1), []
        for _ in range(32):
            tokens.append(token)
            logits, cache = ours.decode(token, cache)
            token = logits.argmax(-1)
    assert torch.equal(torch.cat(tokens, 1), written)


@pytest.mark.parametrize("family", FAMILIES)
def test_vanilla_is_llava_style_and_himix_leaves_the_text_alone(family):
    theirs = reference(family)
    raw = {**theirs.config.to_dict(), "vision_hidden_size": 8}
    ids, features = torch.randint(101, (2, 9)), torch.randn(2, 5, 8)
    vanilla, himix = (build_model(ModelConfig.from_dict({**raw, "architecture": a})) for a in ("vanilla", "himix"))
    for model in (vanilla, himix):
        missing, surplus = model.load_state_dict(theirs.state_dict(), strict=False)
        assert all(name.startswith("connector") or "_img." in name for name in missing)
        assert not surplus
    with torch.no_grad():
        embeddings = torch.cat([vanilla.connector(features), vanilla.model.embed_tokens(ids)], dim=1)
        expected = theirs(inputs_embeds=embeddings).logits[:, 5:]
        assert torch.allclose(vanilla(ids, vision_features=features), expected, rtol=0, atol=2e-5)
        assert torch.allclose(himix(ids), theirs(ids).logits, rtol=0, atol=2e-5)


def test_an_images_keys_are_not_normed():
    """Twice as large features' keys stay what the projection makes of them."""
    raw = {**reference("qwen3").config.to_dict(), "architecture": "himix", "vision_hidden_size": 8}
    layer = build_model(ModelConfig.from_dict(raw)).model.layers[0]
    features = torch.randn(1, 5, 8)
    key, _ = layer.inject(features)
    made = layer.self_attn.k_proj_img(layer.input_layernorm_img(features))
    assert torch.equal(key, made.unflatten(-1, (2, 24)).transpose(1, 2))


def read(family, **changes):
    """The family's config.json as transformers writes it, with other entries; `...` takes one out."""
    raw = {**reference(family).config.to_dict(), **changes}
    return ModelConfig.from_dict(json.loads(json.dumps({k: v for k, v in raw.items() if v is not ...}))).decoder


def test_a_mistrals_window_is_its_most_positions():
    """Inside the window attention is Llama's; transformers takes 4096 where a config.json has none."""
    long = {"max_position_embeddings": 32768}
    assert read("mistral", **long).max_position_embeddings == 32768
    assert read("mistral", **long, sliding_window=4096).max_position_embeddings == 4096
    assert read("mistral", **long, sliding_window=...).max_position_embeddings == 4096
    assert read("mistral", sliding_window=4096).max_position_embeddings == 64
    ours = ModelConfig.from_dict({**reference("mistral").config.to_dict(), **long}).to_dict()
    assert ModelConfig.from_dict(ours).decoder.max_position_embeddings == 32768
    theirs = reference("mistral", sliding_window=16)
    ours = build_model(ModelConfig.from_dict(theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.config.decoder.max_position_embeddings == 16
    ids = torch.randint(101, (1, 24))
    with torch.no_grad():
        apart = (ours(ids) - theirs(ids).logits).abs().amax(-1)[0]
    assert apart[:16].max() < 2e-5
    assert apart[16:].min() > 1e-4


def test_a_qwen3s_heads_are_128_wide_unless_it_says_otherwise():
    assert read("qwen3", head_dim=...).head_dim == 128
    assert read("mistral", head_dim=...).head_dim == 8


@pytest.mark.parametrize(("family", "changes"), [
    ("qwen3", {"attention_bias": True}), ("qwen3", {"use_sliding_window": True}), ("qwen3", {"qk_norm": False}),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    ("mistral", {"sliding_window": 0}), ("mistral", {"sliding_window": "4096"}), ("mistral", {"qk_norm": True}),
])  # fmt: skip
def test_what_would_be_computed_otherwise_is_named(family, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        read(family, **changes)


@pytest.mark.parametrize("name", ["gemma3_text", "phi3", "bunny"])
def test_other_families_are_refused_by_name(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": name}))
    with pytest.raises(InputError, match=f"model_type '{name}' is not supported; decoders: llama, mistral, qwen2, q"):
        open_source(tmp_path)
