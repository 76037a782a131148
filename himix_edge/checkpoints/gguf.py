"""A GGUF file of the llama, qwen2 or qwen3 architecture as this project's configuration and weights."""

import math
import re
from functools import partial

import torch
from torch import Tensor

from himix_edge.checkpoints.gguf_file import GGUF, GGUFTensor, read_tensor
from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.config import DecoderConfig, RopeScaling
from himix_edge.errors import InputError
from himix_edge.model.decoder import rope_frequencies
from himix_edge.reading import MAX_VALUE, JsonObject

ROOT = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
IN_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3_FACTORS = (8.0, 32.0)  # of Llama 3.1 and 3.2, the only two that were published

# keys below the architecture's name: those that are read
READ = {
    "context_length", "embedding_length", "feed_forward_length", "block_count", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base", "rope.dimension_count", "rope.scaling.type",
}  # fmt: skip
# those that change nothing in a decoder whose rotary embedding is not scaled
SILENT = {
    "tensor_data_layout", "attention.layer_norm_epsilon", "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
}  # fmt: skip
# and those that must have one value, because with any other one something else is computed
NEUTRAL: dict[str, float | bool] = {
    "rope.scaling.factor": 1, "rope.scale_linear": 1, "rope.scaling.attn_factor": 1, "attention.causal": True,
    "attention.sliding_window": 0, "attention.scale": 0, "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0,
    "attn_logit_softcapping": 0, "final_logit_softcapping": 0, "logit_scale": 1, "embedding_scale": 1,
    "residual_scale": 1, "expert_count": 0, "expert_used_count": 0, "pooling_type": 0, "use_parallel_residual": False,
}  # fmt: skip


def gguf_config(file: GGUF) -> JsonObject:
    """The decoder's configuration as a Hugging Face config.json has it.

    Raises:
        InputError: a key that is missing, of another type, out of range, or that would change what is computed; named.
    """
    arch = file.architecture
    _refuse_other_models(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{file.path}: tensor token_embd.weight is missing")
    heads, width, rows = _whole(file, "attention.head_count"), _whole(file, "embedding_length"), embedding.shape[0]
    if (said := _whole(file, "vocab_size", rows)) != rows:
        raise InputError(f"{file.path}: {arch}.vocab_size is {said}, but token_embd.weight has {rows} rows")
    head = _whole(file, "attention.key_length", max(width // heads, 1))
    theta = _positive(file, "rope.freq_base", 10000.0)
    config: JsonObject = {
        "model_type": arch,
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": _whole(file, "feed_forward_length"),
        "num_hidden_layers": _whole(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(file, "attention.head_count_kv", heads),
        "head_dim": head,
        "rms_norm_eps": _positive(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "max_position_embeddings": _whole(file, "context_length"),
    }
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := _whole(file, key, head)) != head:
            raise InputError(f"{file.path}: {arch}.{key} is {other}, which is not the heads' {head}; not supported")
    if ROPE_FACTORS in file.tensors:
        config["rope_scaling"] = _llama3_scaling(file, head, theta)
    return config


def gguf_weights(file: GGUF) -> dict[str, LazyTensor]:
    """The tensors under Hugging Face's names; each is dequantised to float32 when it is read.

    llama.cpp interleaves the rows of the llama architecture's q and k for its own rotary embedding; that is undone.

    Raises:
        InputError: a tensor that no decoder here has a use for.
    """
    weights = {}
    llama = file.architecture == "llama"
    heads = _whole(file, "attention.head_count") if llama else 0
    kv_heads = _whole(file, "attention.head_count_kv", heads) if llama else 0
    for name, tensor in file.tensors.items():
        if name == ROPE_FACTORS and llama:
            continue
        interleaved = heads if ".attn_q." in name else kv_heads if ".attn_k." in name else 0
        if interleaved and tensor.shape[0] % (2 * interleaved):
            raise InputError(f"{file.path}: tensor {name} has {tensor.shape[0]} rows for {interleaved} heads")
        weights[_name(file, name)] = LazyTensor(tensor.shape, partial(_read, tensor, interleaved))
    return weights


def _name(file: GGUF, name: str) -> str:
    if name in ROOT:
        return ROOT[name]
    found = IN_BLOCK.fullmatch(name)
    if found and found[2] in BLOCK:
        return f"model.layers.{found[1]}.{BLOCK[found[2]]}.{found[3]}"
    raise InputError(f"{file.path}: surplus tensor {name}: not part of a Llama or Qwen decoder")


def _read(tensor: GGUFTensor, heads: int) -> Tensor:
    weight = read_tensor(tensor)
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2) if heads else weight


def _refuse_other_models(file: GGUF) -> None:
    """Raises InputError for a key that would change what is computed, or that is not known."""
    kind = _metadata(file, "rope.scaling.type", "none")
    if kind not in ("none", "linear"):  # linear by 1, as the factor must be, is none
        raise InputError(f"{file.path}: rope scaling {str(kind)[:40]!r} is not supported")
    prefix = f"{file.architecture}."
    for name, value in file.metadata.items():
        key = name.removeprefix(prefix)
        if key == name or key in READ or key in SILENT:
            continue
        if key not in NEUTRAL:
            raise InputError(f"{file.path}: {name} is not known here; it may change what the model computes")
        good = NEUTRAL[key]
        if value != good or isinstance(value, bool) != isinstance(good, bool):
            raise InputError(f"{file.path}: {name} is {repr(value)[:40]}; only {good} is supported")
    version = file.metadata.get("general.quantization_version", 2)
    if version != 2:
        raise InputError(f"{file.path}: general.quantization_version is {repr(version)[:40]}; only 2 is supported")


def _metadata(file: GGUF, key: str, default: object) -> object:
    return file.metadata.get(f"{file.architecture}.{key}", default)


def _whole(file: GGUF, key: str, default: int | None = None) -> int:
    """A size; a list with one for each layer counts if all are the same."""
    value = _metadata(file, key, default)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]
    if type(value) is not int or not 0 < value <= MAX_VALUE:
        said = "missing" if value is None else f"{repr(value)[:40]}, not a size"
        raise InputError(f"{file.path}: {file.architecture}.{key} is {said}")
    return value


def _positive(file: GGUF, key: str, default: float | None = None) -> float:
    value = _metadata(file, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        said = "missing" if value is None else f"{repr(value)[:40]}, not a positive number"
        raise InputError(f"{file.path}: {file.architecture}.{key} is {said}")
    return float(value)


def _llama3_scaling(file: GGUF, head: int, theta: float) -> JsonObject | None:
    """Llama 3's scaling: the file keeps only its effect, a divisor for each frequency. None if all are 1."""
    tensor = file.tensors[ROPE_FACTORS]
    if head % 2 or math.prod(tensor.shape) != head // 2:
        raise InputError(f"{file.path}: {ROPE_FACTORS} has shape {tensor.shape} for heads of {head}")
    divisors = read_tensor(tensor).flatten()
    if bool((divisors == 1).all()):
        return None
    plain = rope_frequencies(DecoderConfig("llama", 1, 1, 1, 1, 1, 1, head, rope_theta=theta))
    for factor in LLAMA3_FACTORS:
        scaling = RopeScaling(factor, 1.0, 4.0, 8192)
        scaled = DecoderConfig("llama", 1, 1, 1, 1, 1, 1, head, rope_theta=theta, rope_scaling=scaling)
        if torch.allclose(plain / rope_frequencies(scaled), divisors, rtol=1e-3):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }  # fmt: skip
    raise InputError(f"{file.path}: {ROPE_FACTORS} are not those of Llama 3.1 or 3.2")
