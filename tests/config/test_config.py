"""config.json: every number is one and within reason, and what would be computed otherwise is refused by name."""

import json

import pytest

from himix_edge.config import ModelConfig, RopeScaling
from himix_edge.errors import InputError
from himix_edge.presets import DECODERS, TOWERS, preset
from tests.conftest import TINY

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
SCALING = RopeScaling(8.0, 1.0, 4.0, 64)


def read(**changes):
    """TINY as a Llama's config.json with other entries; `...` takes one out."""
    raw = {**TINY.to_dict(), "model_type": "llama", **changes}
    return ModelConfig.from_dict(json.loads(json.dumps({k: v for k, v in raw.items() if v is not ...})))


@pytest.mark.parametrize("name", DECODERS)
def test_presets_survive_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", [name for name, tower in TOWERS.items() if tower.kind != "transformers"])
def test_towers_survive_json(name):
    config = preset("nano", name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("field", "value"), [
    ("num_hidden_layers", "2"), ("head_dim", "1000000000"), ("hidden_size", 64.0), ("vocab_size", True),
    ("vocab_size", 10**30), ("head_dim", -4), ("max_position_embeddings", 0), ("num_key_value_heads", [2]),
    ("rms_norm_eps", 0.0), ("rms_norm_eps", "1e-6"), ("rms_norm_eps", 2.0), ("rope_theta", -1.0), ("rope_theta", "1e4"),
    ("rope_theta", True), ("rope_theta", 1e300), ("tie_word_embeddings", "false"), ("tie_word_embeddings", 1),
    ("tie_word_embeddings", None), ("vision_hidden_size", "32"), ("architecture", 1), ("injection", {"layers": ["0"]}),
])  # fmt: skip
def test_a_field_of_another_type_or_size_is_named(field, value):
    with pytest.raises(InputError, match=field):
        read(**{field: value})


@pytest.mark.parametrize(("field", "value"), [
    ("image_size", 8192), ("image_size", "32"), ("patch_size", 0), ("layer_norm_eps", 0.0),
    ("image_mean", [0.5, 0.5, "0.5"]), ("image_mean", [0.5, 0.5]), ("image_std", [0.5, 0.5, 0.0]),
    ("image_std", [1e-9] * 3), ("feature_layers", [-2] * 65), ("stem_channels", [4] * 4000), ("class_token", 1),
])  # fmt: skip
def test_so_is_one_of_a_tower(field, value):
    with pytest.raises(InputError, match=f"config: vision.*{field}"):
        read(vision_config={**TINY.to_dict()["vision_config"], field: value})


def test_a_number_that_json_does_not_have_is_refused():
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError):
            ModelConfig.from_dict({**TINY.to_dict(), "rope_theta": value})


def test_sizes_that_are_plausible_alone_but_not_together_are_refused():
    with pytest.raises(InputError, match="parameters; refused"):
        read(hidden_size=1 << 20, intermediate_size=1 << 22, num_hidden_layers=800)
    norms = 61 * 576
    assert preset("smollm2-135m").decoder.parameters == 134_515_008 - norms  # as its model card has it


def test_a_tower_without_any_token_is_refused():
    with pytest.raises(InputError, match="leaves no token"):
        read(vision_config={**TINY.to_dict()["vision_config"], "patch_size": 32, "drop_first_token": True})


@pytest.mark.parametrize("changes", [
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": ..., "rope_scaling": ...},
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": ..., "rope_scaling": None},
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": None, "rope_scaling": None},
    {"rope_parameters": {**LLAMA3, "rope_theta": 500000}, "rope_theta": 5e5, "rope_scaling": LLAMA3},
    {"rope_parameters": LLAMA3, "rope_theta": 500_000, "rope_scaling": {}},
    {"rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 5e5},
    {"rope_scaling": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": ...},
])  # fmt: skip
def test_both_forms_of_rotary_settings_are_read(changes):
    decoder = read(**changes).decoder
    assert (decoder.rope_theta, decoder.rope_scaling) == (5e5, SCALING)


def test_a_theta_of_many_digits_is_no_size():
    assert read(rope_theta=1_000_000_000).decoder.rope_theta == 1e9


@pytest.mark.parametrize(("changes", "message"), [
    ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, "rope_theta 10000.0, rope_parameters.rope_theta"),
    ({"rope_parameters": LLAMA3, "rope_scaling": {"rope_type": "default"}}, "rope_parameters and rope_scaling contra"),
    ({"rope_parameters": LLAMA3, "rope_scaling": {**LLAMA3, "factor": 4.0}}, "rope_parameters and rope_scaling contra"),
    ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LLAMA3}, "rope_parameters and rope_scaling contra"),
    ({"rope_parameters": {"full_attention": LLAMA3}}, "by layer type"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}, "mrope_section"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' is not supported"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
    ({"rope_scaling": {"rope_type": "default", "type": "linear"}}, "give one"),
    ({"rope_scaling": {"factor": 2.0}}, "names no rope_type"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor: Field required"),
    ({"rope_scaling": {**LLAMA3, "factor": "8.0"}}, "rope_scaling.factor"),
    ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "must be above"),
])  # fmt: skip
def test_rotary_settings_that_cannot_be_computed_or_contradict_each_other_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        read(**changes)


@pytest.mark.parametrize("changes", [
    {"hidden_act": "gelu"}, {"mlp_bias": True}, {"attention_bias": True}, {"attention_bias": 0},
    {"use_sliding_window": True}, {"sliding_window": 32}, {"layer_types": ["full_attention", "sliding_attention"]},
    {"attention_multiplier": 0.1}, {"embedding_multiplier": 12.0}, {"residual_multiplier": 0.22},
    {"logits_scaling": 8.0}, {"final_logit_softcapping": 30.0}, {"attn_logit_softcapping": 50.0},
    {"partial_rotary_factor": 0.5}, {"num_experts": 8}, {"num_local_experts": 8}, {"use_qk_norm": True},
    {"quantization_config": {"quant_method": "fp8"}}, {"is_causal": False}, {"scale_emb": 12},
])  # fmt: skip
def test_settings_of_other_models_are_refused_by_name(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        read(**changes)


def test_settings_that_change_nothing_are_passed_over():
    """As the published checkpoints of both families have them."""
    assert read() == read(
        hidden_act="silu", attention_bias=False, mlp_bias=False, pretraining_tp=1, use_cache=True, sliding_window=None,
        attention_dropout=0.0, layer_types=["full_attention"] * 2, partial_rotary_factor=1.0, quantization_config=None,
    )  # fmt: skip
    windows = {"sliding_window": 32, "use_sliding_window": False, "max_window_layers": 21}
    assert read(model_type="qwen2") == read(model_type="qwen2", **windows)
