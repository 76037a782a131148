"""Goldens of TinyLLaVA: python -m tests.golden.vlm.make_tinyllava KIND CHECKOUT_OF_TINYLLAVA_FACTORY.

`tinyllava_qwen2` (SigLIP, two layers, padded, qwen2_base) or `tinyllava_llama` (CLIP, one layer, square, llama), with
transformers 4.45.2: an earlier one, as their 4.40.1, does not read the tokenizer; a later one does not build the class.
What they import and do not need here (einops, peft, deepspeed) is stood in for.
"""

import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import torch
import transformers

from tests.golden.vlm.making import Golden, horizontal_first, nano_tokenizer, weights
from tests.golden.vlm.talking import ASKED, TEXT, talked

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SIDE, PATCH = 32, 8
FEW = [(40, 30), (150, 33), (33, 150), (7, 9)]
ONE_EACH = [(shapes[:1], words) for shapes, words in ASKED]  # their template leaves one place to a message


def parts(kind: str) -> tuple[dict, transformers.image_processing_utils.BaseImageProcessor]:
    """Settings of TinyLlavaConfig, and the tower's processor; both parts are written to disk, where it reads them."""
    names = {"qwen2": ("tiny-qwen2", "tiny-siglip"), "llama": ("tiny-tinyllama", "tiny-clip")}[kind]
    place = Path(tempfile.mkdtemp())
    language, tower = (place / name for name in names)
    if kind == "qwen2":
        words = {"tokens": ["<|endoftext|>"], "eos": "<|endoftext|>"}
        described = transformers.SiglipVisionConfig(**LAYERS, image_size=SIDE, patch_size=PATCH)
        process = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
        settings = {"connector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}
    else:
        words = {"tokens": ["<unk>", "</s>"], "bos": "<s>", "eos": "</s>"}
        described = transformers.CLIPVisionConfig(**LAYERS, image_size=SIDE, patch_size=PATCH)
        process = transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        settings = {"connector_type": "linear", "image_aspect_ratio": "square"}
    tokenizer = nano_tokenizer(**words)
    # of Qwen2 there are rows without a token, as in the published ones
    text = {**TEXT, "vocab_size": len(tokenizer) + (8 if kind == "qwen2" else 0)}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    {"qwen2": transformers.Qwen2Config, "llama": transformers.LlamaConfig}[kind](**text).save_pretrained(language)
    described.save_pretrained(tower)
    process.save_pretrained(tower)
    tokenizer.save_pretrained(language)
    settings |= {"llm_model_name_or_path": str(language), "vision_model_name_or_path": str(tower)}
    return settings, process


def conversation(mode: str, tokenizer) -> type:
    """A stand-in for LLaVA's conversations with their template."""
    from tinyllava.data.text_preprocess import TextPreprocess
    from tinyllava.utils.message import Message

    class Chat:
        roles = ("human", "gpt")

        def copy(self) -> "Chat":
            self.message = Message()
            return self

        def append_message(self, role: str, content: str | None) -> None:
            if role == "human":
                self.message.add_message(content)

        def get_prompt(self) -> str:
            return TextPreprocess(tokenizer, mode)(self.message.messages, mode="eval")["prompt"]

    return Chat()


def made(kind: str) -> None:
    from tinyllava.data.image_preprocess import ImagePreprocess
    from tinyllava.data.template import Template
    from tinyllava.model import TinyLlavaConfig, TinyLlavaForConditionalGeneration

    settings, process = parts(kind)
    config = TinyLlavaConfig(**settings, tokenizer_use_fast=True)
    model = TinyLlavaForConditionalGeneration(config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if "position_ids" not in name}
    model.load_state_dict(weights(shapes), strict=False)
    prepare = ImagePreprocess(model.vision_tower._image_processor, config)

    def pixels(pictures: list) -> torch.Tensor:
        return torch.stack([prepare(picture) for picture in pictures])

    whole = types.SimpleNamespace(
        get_model=lambda: model.language_model.model, model=model.language_model.model,
        lm_head=model.language_model.lm_head, encode_images=model.encode_images,
    )  # fmt: skip
    mode = {"qwen2": "qwen2_base", "llama": "llama"}[kind]
    talk = conversation(mode, model.tokenizer)
    scale = process.image_mean, process.image_std
    questions, arrays = talked(
        whole, model.tokenizer, talk, Template.tokenizer_image_token, pixels, scale, FEW, ONE_EACH
    )
    name = f"tinyllava_{kind}"
    written = json.loads(config.to_json_string())
    said = json.dumps(written)
    for path in (settings["llm_model_name_or_path"], settings["vision_model_name_or_path"]):
        said = said.replace(path, f"someone/{Path(path).name}")
    files = {"_tower": {"preprocessor_config.json": process.to_dict()}}
    Golden(name, json.loads(said) | files, shapes, -200, questions, arrays).save()


def hashable_formatters(checkout: str) -> None:
    """Their templates have formatters as defaults, which dataclasses of Python 3.11 take only if they are hashable."""
    name = "tinyllava.data.template.formatter"
    spec = importlib.util.spec_from_file_location(name, f"{checkout}/{name.replace('.', '/')}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.StringFormatter.__hash__ = module.EmptyFormatter.__hash__ = object.__hash__


def main() -> None:
    horizontal_first()
    checkout = str(Path(sys.argv[2]).resolve())
    sys.path.insert(0, checkout)
    sys.modules["einops"] = types.SimpleNamespace(rearrange=None, repeat=None)
    sys.modules["einops_exts"] = types.SimpleNamespace(rearrange_many=None)
    sys.modules["tinyllava.utils.train_utils"] = types.ModuleType("train_utils")  # it wants peft and deepspeed
    sys.modules["tinyllava.data"] = types.ModuleType("tinyllava.data")  # without its data sets
    sys.modules["tinyllava.data"].__path__ = [f"{checkout}/tinyllava/data"]
    hashable_formatters(checkout)
    transformers.logging.set_verbosity_error()
    made(sys.argv[1].removeprefix("tinyllava_"))


if __name__ == "__main__":
    main()
