"""Presets at their real sizes: vision-language models' configurations beside transformers', and texts with tags."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from himix_edge.checkpoints.families import open_vlm
from himix_edge.checkpoints.random_preset import random_preset
from himix_edge.config import ModelConfig
from himix_edge.config.images import SLOT
from himix_edge.errors import InputError
from himix_edge.export.preflight import forecast
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.picture_tokens import slots
from himix_edge.presets import preset
from himix_edge.runtimes.pictures import picture_ids
from himix_edge.tiles import load_tiles
from himix_edge.vlm_presets import VLMS

# what the published folders' config.json and preprocessor_config.json say, as far as it counts
SMOLLM2 = {"model_type": "llama", "vocab_size": 49280, "head_dim": 64, "rms_norm_eps": 1e-5,
           "max_position_embeddings": 8192, "tie_word_embeddings": False}  # fmt: skip
SIGLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "image_size": 512, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TILES_512 = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}, "resample": 1, **HALVES}
FOLDERS = {
    "smolvlm-256m": (
        {"model_type": "idefics3", "image_token_id": 49190, "scale_factor": 4, "vision_config": SIGLIP,
         "text_config": {**SMOLLM2, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                         "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000}},
        TILES_512,
    ),
    "smolvlm-500m": (
        {"model_type": "smolvlm", "image_token_id": 49190, "scale_factor": 4, "vision_config": SIGLIP,
         "text_config": {**SMOLLM2, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
                         "num_attention_heads": 15, "num_key_value_heads": 5, "rope_theta": 100000}},
        TILES_512,
    ),
    "internvl3-1b": (
        {"model_type": "internvl", "image_token_id": 151667, "downsample_ratio": 0.5,
         "text_config": {"model_type": "qwen2", "vocab_size": 151674, "hidden_size": 896, "intermediate_size": 4864,
                         "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768},
         "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                           "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14],
                           "hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_qk_norm": False}},
        {"size": {"height": 448, "width": 448}, "max_patches": 12, "min_patches": 1, "resample": 3,
         "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    ),
    "llava-1.5-7b": (
        {"model_type": "llava", "image_token_index": 32000,
         "text_config": {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5,
                         "max_position_embeddings": 4096},
         "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                           "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}},
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "resample": 3},
    ),
    "llava-onevision-0.5b": (
        {"model_type": "llava_onevision", "image_token_index": 151646, "vision_aspect_ratio": "anyres_max_9",
         "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "tie_word_embeddings": False,
         "text_config": {"model_type": "qwen2", "vocab_size": 152000, "hidden_size": 896, "intermediate_size": 4864,
                         "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
                         "tie_word_embeddings": True},
         "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                           "num_hidden_layers": 26, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
                           "vision_use_head": False}},
        {"size": {"height": 384, "width": 384}, "resample": 3, **HALVES},
    ),
    "fastvlm-0.5b": (
        {"model_type": "fast_vlm", "image_token_id": 151646, "tie_word_embeddings": False,
         "text_config": {"model_type": "qwen2", "vocab_size": 152000, "hidden_size": 896, "intermediate_size": 4864,
                         "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
                         "tie_word_embeddings": True},
         "vision_config": {"model_type": "timm_wrapper", "architecture": "fastvit_mci3"}},
        {"size": {"shortest_edge": 1024}, "crop_size": {"height": 1024, "width": 1024}, "resample": 3,
         "image_mean": [0.0] * 3, "image_std": [1.0] * 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_preset_is_what_its_folder_says(name, tmp_path):
    raw, pixels = FOLDERS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    assert open_vlm(tmp_path, raw).config() == VLMS[name].config


@pytest.mark.parametrize("name", VLMS)
def test_presets_survive_json(name):
    assert ModelConfig.from_dict(preset(name).to_dict()) == preset(name)


@pytest.mark.parametrize(("name", "tokens"), [
    ("smolvlm-256m", 64), ("smolvlm2-2.2b", 81), ("llava-1.5-7b", 576),
    ("llava-onevision-0.5b", 729 + 1), ("internvl3-1b", 256), ("fastvlm-0.5b", 256),
])  # fmt: skip
def test_a_tile_takes_the_published_number_of_tokens(name, tokens):
    assert preset(name).tile_tokens == tokens


@pytest.mark.parametrize("name", VLMS)
def test_a_picture_has_its_familys_tags(name):
    source = random_preset(name)
    text, config = source.load_text(), source.config
    assert dataclasses.replace(config, images=VLMS[name].config.images) == VLMS[name].config
    picture = load_tiles(Image.fromarray(np.zeros((90, 160, 3), np.uint8)), config.vision.image_size, config.images)
    ids = picture_ids(text, config, [picture], None, config.decoder.max_position_embeddings)
    place = slots(picture, config.images, config.tile_tokens)
    blocks = place.rows * place.columns + 1
    assert int((ids == SLOT).sum()) == blocks * place.tokens
    assert place.rows == 0 or blocks == len(picture.pixels)
    tags = [text.tokenizer.id_to_token(int(number)) for number in ids[ids != SLOT]]
    if VLMS[name].family == "smolvlm":
        assert tags.count("<row_2_col_4>") == tags.count("<global-img>") == 1
        assert tags.count("<fake_token_around_image>") == len(picture.pixels) + 1
    if VLMS[name].family == "internvl":
        assert (tags.count("<img>"), tags.count("</img>")) == (1, 1)


def test_another_tower_is_refused():
    with pytest.raises(InputError, match="smolvlm-256m has its own tower"):
        random_preset("smolvlm-256m", "nano")


def test_a_forecast_counts_each_part_once():
    """Of SmolVLM-256M in float: four bytes for each published parameter, the untied head's too."""
    need = forecast(preset("smolvlm-256m"), POLICIES["none"])
    assert sum(need.weights.values()) == 4 * 256_484_928
    assert need.weights["vision_injector"] == 4 * 768 * 16 * 576
