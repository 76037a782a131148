"""InternVL's goldens, by its own classes: python -m tests.golden.vlm.make_internvl_chat CHECKOUT/internvl_chat.

Of OpenGVLab/InternVL. What it imports and does not need here is stood in for: peft, timm's DropPath, einops,
torchvision; its `dynamic_preprocess` is taken out of train/dataset.py, which imports more.
"""

import ast
import sys
import types
from pathlib import Path

import torch
import transformers
from torch import nn

from tests.golden.vlm.making import LAST, SIDE, Golden, Question, horizontal_first, nano_tokenizer, picture, weights

SHAPES = [(40, 30), (32, 32), (150, 33), (33, 150), (7, 9), (130, 128)]
TOKENS = ["<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"]
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": 8, "norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True,
    "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b",
}  # fmt: skip
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def stand_ins() -> None:
    nothing = types.SimpleNamespace(LoraConfig=None, get_peft_model=None)
    layers = types.SimpleNamespace(DropPath=nn.Identity)
    sys.modules |= {
        "peft": nothing, "einops": types.SimpleNamespace(rearrange=None), "timm": nothing, "timm.models": nothing,
        "timm.models.layers": layers,
    }  # fmt: skip
    for name in ("internlm2.modeling_internlm2", "phi3.modeling_phi3"):
        kind = "InternLM2ForCausalLM" if "intern" in name else "Phi3ForCausalLM"
        sys.modules[f"internvl.model.{name}"] = types.SimpleNamespace(**{kind: None})
    sys.modules["internvl.model"] = types.ModuleType("internvl.model")
    sys.modules["internvl.model"].__path__ = [str(Path(sys.argv[1]) / "internvl" / "model")]


def preprocessing():
    """Their `dynamic_preprocess`."""
    source = (Path(sys.argv[1]) / "internvl" / "train" / "dataset.py").read_text()
    wanted = ("find_closest_aspect_ratio", "dynamic_preprocess")
    parts = [part for part in ast.parse(source).body if getattr(part, "name", "") in wanted]
    space: dict = {}
    exec(compile(ast.Module(parts, []), "dataset.py", "exec"), space)
    return space["dynamic_preprocess"]


def made(name: str, decoder: str, settings: dict) -> None:
    from internvl.model.internvl_chat import InternVLChatConfig, InternVLChatModel

    tokenizer = nano_tokenizer(TOKENS)
    config = InternVLChatConfig(
        vision_config=VISION, llm_config={**TEXT, "vocab_size": len(tokenizer) + 8, "architectures": [decoder]},
        downsample_ratio=0.5, ps_version="v2", dynamic_image_size=True, **settings,
    )  # fmt: skip
    model = InternVLChatModel(config, use_flash_attn=False).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    process = preprocessing()

    def tiles(shape: tuple[int, int]) -> torch.Tensor:
        found = process(picture(*shape), config.min_dynamic_patch, config.max_dynamic_patch, SIDE, config.use_thumbnail)
        return torch.stack([
            torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8).reshape(SIDE, SIDE, 3) for tile in found
        ])  # fmt: skip

    arrays = {f"pixels_{shape[0]}x{shape[1]}": tiles(shape) for shape in SHAPES}
    questions = []
    for i, (asked, words, system) in enumerate([
        ([(40, 30)], "What is this?", ""), ([(150, 33), (7, 9)], "What is this?", ""), ([], "What is this?", ""),
        ([(33, 150)], "And why?", "Be brief."),
    ]):  # fmt: skip
        pixels = [tiles(shape) for shape in asked]
        seen = {}

        def generate(pixel_values=None, input_ids=None, seen=seen, **_):
            seen["ids"], seen["pixels"] = input_ids, pixel_values
            return input_ids

        own, model.generate = model.generate, generate
        if system:
            model.system_message = system
        normed = None if not pixels else ((torch.cat(pixels) / 255 - MEAN) / STD).permute(0, 3, 1, 2)
        question = "<image>\n" * len(asked) + words
        model.chat(tokenizer, normed, question, {}, num_patches_list=[len(tile) for tile in pixels])
        model.generate = own
        ids = seen["ids"]
        with torch.no_grad():
            embedded = model.language_model.get_input_embeddings()(ids).clone()
            if normed is not None:
                embedded[ids == model.img_context_token_id] = model.extract_feature(normed).flatten(0, 1)
            arrays[f"logits_{i}"] = model.language_model(inputs_embeds=embedded).logits[0, -LAST:]
        settled = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        tokens = model.language_model.generate(
            inputs_embeds=embedded, attention_mask=torch.ones_like(ids), **settled
        )[0]  # fmt: skip
        questions.append(Question([list(s) for s in asked], words, ids[0].tolist(), tokens.tolist(), system))
    said = config.to_dict()
    said["vision_config"] = VISION
    said["llm_config"] = {**TEXT, "vocab_size": len(tokenizer) + 8, "architectures": [decoder]}
    keep = ("vision_config", "llm_config", "downsample_ratio", "ps_version", "dynamic_image_size", "use_thumbnail",
            "template", "select_layer", "min_dynamic_patch", "max_dynamic_patch", "force_image_size", "pad2square",
            "model_type", "use_backbone_lora", "use_llm_lora", "architectures", "auto_map")  # fmt: skip
    said = {name: said[name] for name in keep if name in said}
    Golden(name, said, shapes, model.img_context_token_id, questions, arrays).save()


def main() -> None:
    stand_ins()
    horizontal_first()
    sys.path.insert(0, sys.argv[1])
    transformers.logging.set_verbosity_error()
    made(
        "internvl_chat", "Qwen2ForCausalLM", {"template": "internvl2_5", "use_thumbnail": True, "max_dynamic_patch": 12}
    )
    made("internvl_chat_llama", "LlamaForCausalLM", {"template": "Hermes-2", "select_layer": -2})


if __name__ == "__main__":
    main()
