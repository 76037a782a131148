"""FastVLM's golden, by its own classes: python -m tests.golden.vlm.make_fastvlm CHECKOUT (of apple/ml-fastvlm).

Its FastViT at a tiny size, in its training form: what is read has every branch. timm is stood in for.
"""

import functools
import sys
import types
from pathlib import Path

import transformers
from torch import nn

from tests.golden.vlm.making import Golden, horizontal_first, nano_tokenizer, weights
from tests.golden.vlm.talking import TEXT, talked

SIDE = 128
SETTINGS = {
    "model_type": "llava_qwen2", "architectures": ["LlavaQwen2ForCausalLM"], "mm_vision_tower": f"mobileclip_l_{SIDE}",
    "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 64, "image_aspect_ratio": "pad", "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False, "mm_patch_merge_type": "flat", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "unfreeze_mm_vision_tower": True, "use_mm_proj": True,
}  # fmt: skip


def stand_ins() -> None:
    timm = {
        "timm": types.SimpleNamespace(),
        "timm.models": types.SimpleNamespace(register_model=lambda made: made, create_model=None),
        "timm.data": types.SimpleNamespace(IMAGENET_DEFAULT_MEAN=0, IMAGENET_DEFAULT_STD=1),
        "timm.layers": types.SimpleNamespace(DropPath=nn.Identity, SqueezeExcite=None),
    }
    sys.modules |= timm


def tiny(name: str, projection_dim: int):
    """FastViTHD with fewer and narrower layers; the test has the same."""
    from llava.model.multimodal_encoder.mobileclip import mci

    positions = functools.partial(mci.RepCPE, spatial_shape=(7, 7))
    return mci.FastViT(
        [1, 1, 1, 1, 1], ("repmixer", "repmixer", "repmixer", "attention", "attention"), [8, 16, 16, 32, 32],
        [4] * 5, [True] * 5, pos_embs=[None, None, None, positions, positions], norm_layer=mci.LayerNormChannel,
        stem_scale_branch=False, inference_mode=False, num_classes=projection_dim,
    )  # fmt: skip


def main() -> None:
    stand_ins()
    horizontal_first()
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    transformers.logging.set_verbosity_error()
    from llava.conversation import conv_templates
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model.language_model.llava_qwen import LlavaConfig, LlavaQwen2ForCausalLM
    from llava.model.multimodal_encoder import mobileclip

    mobileclip.create_model = tiny
    image = {"image_size": SIDE, "model_name": "fastvithd", "embed_dim": 64, "patch_size": 64}
    mobileclip.load_model_config = lambda name: {"embed_dim": 16, "image_cfg": dict(image)}
    tokenizer = nano_tokenizer(["<|endoftext|>"])
    settings = {**TEXT, **SETTINGS, "vocab_size": len(tokenizer) + 8, "tie_word_embeddings": True}
    config = LlavaConfig(**settings)
    model = LlavaQwen2ForCausalLM(config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight" and shape}
    model.load_state_dict(weights(shapes), strict=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    made = talked(
        model, tokenizer, conv_templates["qwen_2"], tokenizer_image_token,
        lambda pictures: process_images(pictures, model.get_vision_tower().image_processor, config),
        shapes=[(150, 33), (33, 150)],
    )  # fmt: skip
    Golden("fastvlm", settings, shapes, -200, *made).save()


if __name__ == "__main__":
    main()
