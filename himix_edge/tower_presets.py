"""The vision towers that are known by name, at their published sizes."""

from himix_edge.config import CNNConfig, TransformersVisionConfig, VisionConfig, ViTConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TOWERS: dict[str, VisionConfig] = {
    "nano": ViTConfig(64, 8, 128, 512, 4, 4, stem_channels=(32, 64, 128), feature_layers=(-1,)),
    "efficientnet-lite0": CNNConfig("efficientnet_lite0"),
    # the paper's tower: its 729 tokens lose the first one to the authors' "patch" selection
    "siglip-so400m": ViTConfig(
        384, 14, 1152, 4304, 27, 16, hidden_act="gelu_tanh", drop_first_token=True, resample="bicubic"
    ),
    "siglip-base-256": ViTConfig(256, 16, 768, 3072, 12, 12, hidden_act="gelu_tanh", resample="bicubic"),
    "clip-vit-b32": ViTConfig(
        224, 32, 768, 3072, 12, 12, 1e-5, "quick_gelu", CLIP_MEAN, CLIP_STD, class_token=True, pre_norm=True,
        drop_first_token=True, resample="bicubic",
    ),
    "tinyclip-8m": ViTConfig(  # its authors' configuration asks for no QuickGELU
        224, 16, 256, 1024, 10, 4, 1e-5, "gelu", CLIP_MEAN, CLIP_STD, class_token=True, pre_norm=True,
        drop_first_token=True, resample="bicubic",
    ),
    "dinov2-small": ViTConfig(
        224, 14, 384, 1536, 12, 6, 1e-6, "gelu", IMAGENET_MEAN, IMAGENET_STD, class_token=True, layer_scale=True,
        drop_first_token=True, resample="bicubic",
    ),
    "vit-tiny-16": ViTConfig(224, 16, 192, 768, 12, 3, 1e-12, class_token=True, drop_first_token=True),
    # BEiT as fine-tuned on ImageNet-22k and -1k; the sizes that are not named here are transformers' defaults
    "beit-base": TransformersVisionConfig(
        {"model_type": "beit", "use_relative_position_bias": True}, 224, 196, 768, drop_first_token=True,
        resample="bilinear",
    ),
    "hiera-tiny": TransformersVisionConfig(
        {"model_type": "hiera", "depths": [1, 2, 7, 2]}, 224, 196, 384, image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    ),
}  # fmt: skip
