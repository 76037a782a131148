"""Goldens of models in LLaVA's layout: python -m tests.golden.vlm.make_llava_original KIND CHECKOUT.

`mobilevlm` of Meituan-AutoML/MobileVLM; `llava_llama` of apple/ml-fastvlm, which has LLaVA's own classes; `nanollava`
of BAAI-DCAI/Bunny, on whose code nanoLLaVA is built: its tower, projector and preprocessing around transformers' Qwen2.
What they import and do not need here (timm, torchvision, einops) is stood in for.
"""

import sys
import tempfile
import types
from pathlib import Path

import torch
import transformers
from torch import nn

from tests.golden.vlm.make_fastvlm import stand_ins
from tests.golden.vlm.making import Golden, horizontal_first, nano_tokenizer, weights
from tests.golden.vlm.talking import TEXT, talked

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SETTINGS = {
    "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 32, "image_aspect_ratio": "pad", "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
}  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FEW = [(40, 30), (150, 33), (33, 150), (7, 9)]


def tower(kind: str, side: int, patch: int) -> tuple[str, dict]:
    """A tiny tower in a folder, and its two JSON files."""
    folder = tempfile.mkdtemp()
    if kind == "clip":
        settings = transformers.CLIPVisionConfig(**LAYERS, image_size=side, patch_size=patch)
        model = transformers.CLIPVisionModel(settings)
        process = transformers.CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    else:
        settings = transformers.SiglipVisionConfig(**LAYERS, image_size=side, patch_size=patch, vision_use_head=False)
        model = transformers.SiglipVisionModel(settings)
        process = transformers.SiglipImageProcessor(size={"height": side, "width": side})
    model.save_pretrained(folder)
    process.save_pretrained(folder)
    return folder, {"config.json": settings.to_dict(), "preprocessor_config.json": process.to_dict()}


def more_stand_ins() -> None:
    stand_ins()
    nothing = types.SimpleNamespace
    sys.modules |= {
        "timm.layers.norm_act": nothing(LayerNormAct2d=None), "torchvision": nothing(),
        "torchvision.ops": nothing(), "torchvision.ops.misc": nothing(SqueezeExcitation=None),
        "torchvision.models": nothing(), "einops": nothing(rearrange=None),
        "torchvision.models.mobilenetv3": nothing(InvertedResidual=None, InvertedResidualConfig=None),
    }  # fmt: skip


def saved(name: str, settings: dict, model: nn.Module, tokenizer, talk: tuple, aside: dict) -> None:
    """`talk` are the template, `tokenizer_image_token` and `process_images`; `aside` what the test's folder needs."""
    conversation, tokenize, process = talk
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict(weights(shapes), strict=False)
    eyes = model.get_vision_tower()
    scale = eyes.image_processor.image_mean, eyes.image_processor.image_std

    def pixels(pictures: list) -> torch.Tensor:
        return process(pictures, eyes.image_processor, model.config)

    made = talked(model, tokenizer, conversation, tokenize, pixels, scale, FEW)
    Golden(name, settings | aside, shapes, -200, *made).save()


def mobilevlm() -> None:
    from mobilevlm.conversation import conv_templates
    from mobilevlm.model.mobilellama import MobileLlamaForCausalLM, MobileVLMConfig
    from mobilevlm.utils import process_images, tokenizer_image_token

    folder, files = tower("clip", 96, 4)
    tokenizer = nano_tokenizer(["<unk>", "</s>"], "<s>")
    settings = {**TEXT, **SETTINGS, "vocab_size": len(tokenizer), "model_type": "mobilevlm"}
    settings |= {"mm_projector_type": "ldpnetv2", "vision_tower_type": "clip"}
    config = MobileVLMConfig(**settings, mm_vision_tower=folder)
    model = MobileLlamaForCausalLM(config).eval()
    model.get_vision_tower().load_image_processor()
    talk = conv_templates["v1"], tokenizer_image_token, process_images
    aside = {"mm_vision_tower": "openai/tiny-clip", "_tower": files}
    saved("mobilevlm", settings, model, tokenizer, talk, aside)


def llava_llama() -> None:
    from llava.conversation import conv_templates
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    folder, files = tower("clip", 32, 8)
    tokenizer = nano_tokenizer(["<unk>", "</s>"], "<s>")
    settings = {**TEXT, **SETTINGS, "vocab_size": len(tokenizer) + 8, "model_type": "llava_llama"}
    settings["image_aspect_ratio"] = None
    config = LlavaConfig(**settings, mm_vision_tower=folder)
    model = LlavaLlamaForCausalLM(config).eval()
    model.get_vision_tower().load_model()
    talk = conv_templates["v1"], tokenizer_image_token, process_images
    aside = {"mm_vision_tower": "openai/tiny-clip", "_tower": files, "_tower_apart": True}
    saved("llava_llama", settings, model, tokenizer, talk, aside)


def nanollava() -> None:
    sys.modules["bunny.model"] = types.ModuleType("bunny.model")
    sys.modules["bunny.model"].__path__ = [str(Path(sys.argv[2]) / "bunny" / "model")]
    from bunny.model.multimodal_encoder.siglip.siglip_encoder import SiglipVisionTower
    from bunny.model.multimodal_projector.builder import build_vision_projector
    from bunny.util.mm_utils import process_images, tokenizer_image_token

    class Chat:
        """nanoLLaVA asks with its tokenizer's chat template."""

        roles = ("user", "assistant")

        def copy(self) -> "Chat":
            self.messages: list = []
            return self

        def append_message(self, role: str, content: str | None) -> None:
            self.messages += [{"role": role, "content": content}] if content else []

        def get_prompt(self) -> str:
            return tokenizer.apply_chat_template(
                self.messages, chat_template=CHATML, add_generation_prompt=True, tokenize=False
            )

    folder, files = tower("siglip", 32, 8)
    tokenizer = nano_tokenizer(["<|endoftext|>"])
    settings = {**TEXT, **SETTINGS, "vocab_size": len(tokenizer) + 8, "model_type": "llava-qwen2"}
    config = transformers.Qwen2Config(**{**settings, "model_type": "qwen2"})
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.model.vision_tower = SiglipVisionTower(folder, None)
    model.model.mm_projector = build_vision_projector(config)
    model.get_vision_tower, model.get_model = lambda: model.model.vision_tower, lambda: model.model
    model.encode_images = lambda pixels: model.model.mm_projector(model.model.vision_tower(pixels))
    talk = Chat(), tokenizer_image_token, process_images
    aside = {"mm_vision_tower": "google/tiny-siglip", "_tower": files, "_chat_template": CHATML}
    saved("nanollava", settings, model, tokenizer, talk, aside)


def main() -> None:
    more_stand_ins()
    horizontal_first()
    sys.path.insert(0, str(Path(sys.argv[2]).resolve()))
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    {"mobilevlm": mobilevlm, "llava_llama": llava_llama, "nanollava": nanollava}[sys.argv[1]]()


if __name__ == "__main__":
    main()
