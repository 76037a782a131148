"""Vision-language models of others that are known by name, at their published sizes, see `checkpoints.vlm_config`."""

from dataclasses import dataclass

from himix_edge.config import Connector, DecoderConfig, FastViTConfig, ImageLayout, ModelConfig, VisionConfig, ViTConfig
from himix_edge.tower_presets import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class VlmPreset:
    """A model's sizes, and its family's `model_type`, by which its pictures are tagged.

    Its `slot_id` is the published tokenizer's.
    """

    family: str
    config: ModelConfig


_SIGLIP_512 = ViTConfig(
    512, 16, 768, 3072, 12, 12, hidden_act="gelu_tanh", feature_layers=(-1,), post_norm=True, resample="bicubic"
)
_SIGLIP_384 = ViTConfig(
    384, 14, 1152, 4304, 27, 16, hidden_act="gelu_tanh", feature_layers=(-1,), post_norm=True, resample="bicubic"
)
_SIGLIP_384_CUT = ViTConfig(  # without its last layer, and without the norm behind it
    384, 14, 1152, 4304, 26, 16, hidden_act="gelu_tanh", feature_layers=(-1,), resample="bicubic"
)
_CLIP_336 = ViTConfig(
    336, 14, 1024, 4096, 24, 16, 1e-5, "quick_gelu", CLIP_MEAN, CLIP_STD, class_token=True, pre_norm=True,
    drop_first_token=True, resample="bicubic",
)  # fmt: skip
_INTERNVIT = ViTConfig(
    448, 14, 1024, 4096, 24, 16, 1e-6, "gelu", IMAGENET_MEAN, IMAGENET_STD, class_token=True, layer_scale=True,
    feature_layers=(-1,), drop_first_token=True, resample="bicubic",
)  # fmt: skip
_SMOLLM2_135M = DecoderConfig("llama", 49280, 576, 1536, 30, 9, 3, 64, 1e-5, 100000.0, None, False, 8192)
_SMOLLM2_360M = DecoderConfig("llama", 49280, 960, 2560, 32, 15, 5, 64, 1e-5, 100000.0, None, False, 8192)
_SMOLLM2_1B7 = DecoderConfig("llama", 49280, 2048, 8192, 24, 32, 32, 64, 1e-5, 130000.0, None, False, 8192)
_QWEN25_0B5 = DecoderConfig("qwen2", 151674, 896, 4864, 24, 14, 2, 64, 1e-6, 1000000.0, None, False, 32768)
_QWEN2_0B5 = DecoderConfig("qwen2", 152000, 896, 4864, 24, 14, 2, 64, 1e-6, 1000000.0, None, True, 32768)
_VICUNA_7B = DecoderConfig("llama", 32064, 4096, 11008, 32, 32, 32, 128, 1e-5, 10000.0, None, False, 4096)


def _vlm(decoder: DecoderConfig, vision: VisionConfig, connector: Connector, images: ImageLayout) -> ModelConfig:
    return ModelConfig("vanilla", decoder, vision.feature_size, vision, connector=connector, images=images)


def _smolvlm(decoder: DecoderConfig, vision: ViTConfig, shuffle: int, longest: int) -> VlmPreset:
    layout = ImageLayout(49190, "rows", "lanczos", longest)
    return VlmPreset("smolvlm", _vlm(decoder, vision, Connector(shuffle, layers=1, bias=False), layout))


_ANYRES_384 = ImageLayout(
    151646, "anyres", grids=tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7)), anyres_max=9,
    pad_several=True, color=(127, 127, 127),
)  # fmt: skip

VLMS = {
    "smolvlm-256m": _smolvlm(_SMOLLM2_135M, _SIGLIP_512, 4, 4 * 512),
    "smolvlm-500m": _smolvlm(_SMOLLM2_360M, _SIGLIP_512, 4, 4 * 512),
    "smolvlm2-2.2b": _smolvlm(_SMOLLM2_1B7, _SIGLIP_384, 3, 4 * 384),
    "llava-1.5-7b": VlmPreset("llava", _vlm(_VICUNA_7B, _CLIP_336, Connector(), ImageLayout(32000, "crop"))),
    "llava-onevision-0.5b": VlmPreset(
        "llava_onevision", _vlm(_QWEN2_0B5, _SIGLIP_384_CUT, Connector(newline=True), _ANYRES_384)
    ),
    "fastvlm-0.5b": VlmPreset("fast_vlm", _vlm(_QWEN2_0B5, FastViTConfig(), Connector(), ImageLayout(151646, "crop"))),
    "internvl3-1b": VlmPreset(
        "internvl", _vlm(_QWEN25_0B5, _INTERNVIT, Connector(2, norm=True), ImageLayout(151667, "grid"))
    ),
}
