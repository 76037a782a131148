"""Vision-language models at their published sizes with random weights, as folders that everybody's tools read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.packages import fetch
from himix_edge.model.meta import meta_device
from himix_edge.text import TOKENIZER

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    Model = tuple[PretrainedConfig, dict[str, object], str]  # with its processor's settings and chat template

END = "<|im_end|>"
SIGLIP_B = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 512, "patch_size": 16,
}  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{{ 'SLOT\n' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def smolvlm_256m(
    tokenizer: "PreTrainedTokenizerFast", vision: dict[str, int] = SIGLIP_B, tile: int = 512, longest: int = 2048
) -> "Model":
    """SmolVLM-256M: SigLIP-B/16 at 512 pixels, pixel shuffle by 4, SmolLM2-135M; or with another tower."""
    from transformers import SmolVLMConfig

    text = {
        "model_type": "llama", "architectures": ["VLlama3ForCausalLM"],
        "vocab_size": 49280, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000.0,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "head_dim": 64,
        "bos_token_id": 1, "eos_token_id": tokenizer.convert_tokens_to_ids("<end_of_utterance>"), "pad_token_id": 2,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=4, tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pixels = {
        "image_processor_type": "SmolVLMImageProcessor", "do_resize": True, "do_image_splitting": True,
        "size": {"longest_edge": longest}, "max_image_size": {"longest_edge": tile}, "resample": 1, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "do_convert_rgb": True, "do_pad": True, "processor_class": "SmolVLMProcessor",
    }  # fmt: skip
    return config, pixels, SMOLVLM


def internvl3_1b(tokenizer: "PreTrainedTokenizerFast") -> "Model":
    """InternVL3-1B in transformers' layout: InternViT-300M at 448 pixels, pixel shuffle by 2, Qwen2.5-0.5B."""
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    text = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=151674, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, rope_theta=1000000.0, max_position_embeddings=32768, tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(END), bos_token_id=None,
    )  # fmt: skip
    vision = InternVLVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=[448, 448], patch_size=[14, 14], attention_bias=True, use_qk_norm=False,
    )  # fmt: skip
    config = InternVLConfig(
        text_config=text, vision_config=vision, downsample_ratio=0.5, image_seq_length=256,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    pixels = {
        "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True, "min_patches": 1, "max_patches": 12,
        "size": {"height": 448, "width": 448}, "resample": 3, "do_resize": True, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "do_convert_rgb": True, "processor_class": "InternVLProcessor",
    }  # fmt: skip
    return config, pixels, CHATML.replace("SLOT", "<IMG_CONTEXT>")


MODELS: "dict[str, Callable[[PreTrainedTokenizerFast], Model]]" = {
    "smolvlm-256m": smolvlm_256m,
    "internvl3-1b": internvl3_1b,
}


def write_folder(
    make: "Callable[[PreTrainedTokenizerFast], Model]",
    folder: Path,
    change: Callable[[torch.nn.Module], None] = lambda _: None,
) -> Path:
    """A folder with bfloat16 weights drawn from a seed, processor, tokenizer and chat template.

    The tokenizer is SmolLM2's with the tags of all families; a model's own has as many tokens or more.

    Args:
        make: one of MODELS.
        folder: to make.
        change: gets the module in transformers' own class, to change weights in place.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    open_source(fetch("smollm2-135m")).load_tokenizer().save(str(folder / TOKENIZER))
    tags = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / TOKENIZER), eos_token=END, pad_token=END, bos_token=None,
        additional_special_tokens=[
            "<image>", "<fake_token_around_image>", "<global-img>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>",
            END, "<end_of_utterance>", *tags,
        ],
    )  # fmt: skip
    config, pixels, template = make(tokenizer)
    torch.manual_seed(0)
    kind = getattr(transformers, type(config).__name__.replace("Config", "ForConditionalGeneration"))
    with meta_device():
        model = kind(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    (folder / "chat_template.jinja").write_text(template)
    return folder
