"""A preset's decoder with random weights as a folder that Hugging Face's transformers, and so most exporters, read."""

import json
from pathlib import Path

from himix_edge.checkpoints.saving import save_weights
from himix_edge.checkpoints.source import random_source
from himix_edge.presets import preset

FAMILIES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip


def write_model(name: str, folder: Path) -> Path:
    """The decoder alone: config.json, model.safetensors in bfloat16, a tokenizer."""
    source = random_source(preset(name), name)
    folder.mkdir(parents=True)
    save_weights(
        folder, {n: w for n, w in source.weights.items() if not n.startswith("vision") and "_img" not in n}, None
    )
    config = source.config.to_dict()
    for field in ("architecture", "vision_config", "vision_hidden_size", "injection"):
        del config[field]
    config |= {"architectures": [FAMILIES[config["model_type"]]], "torch_dtype": "bfloat16", "hidden_act": "silu"}
    config |= {"sliding_window": None}
    config |= {"eos_token_id": 0, "bos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    source.load_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder
