"""llama.cpp as a peer: a preset's decoder with random weights as GGUF, and its timings through llama-cpp-python."""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil

from benchmarks.timing import DECODED, TEXT, VISION, Timings, llava_style, milliseconds, report
from himix_edge.checkpoints.source import Source, random_source
from himix_edge.presets import preset
from himix_edge.text import TextProcessor

TYPES = gguf.GGMLQuantizationType
KINDS = {"q4_0": TYPES.Q4_0, "q8_0": TYPES.Q8_0, "f32": TYPES.F32}
NAMES = {  # ours -> llama.cpp's, below a layer
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"self_attn.{x}_proj.{part}": f"attn_{x}.{part}" for x in "qkv" for part in ("weight", "bias")},
    **{f"self_attn.{x}_norm.weight": f"attn_{x}_norm.weight" for x in "qk"},
    "self_attn.o_proj.weight": "attn_output.weight",
    **{f"mlp.{x}_proj.weight": f"ffn_{x}.weight" for x in ("gate", "up", "down")},
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(name: str, kind: str, path: Path) -> None:
    """A preset's decoder with random weights, every matrix in Q4_0 or Q8_0, without a vocabulary."""
    write_source(random_source(preset(name), name), kind, path)


def write_source(source: Source, kind: str, path: Path, text: TextProcessor | None = None) -> None:
    """A model's decoder, every matrix in Q4_0, Q8_0 or F32 (the embedding and head too).

    Args:
        source: the model; what is of the image is left out.
        kind: one of `KINDS`.
        path: of the file.
        text: its vocabulary, which must be BPE of bytes, and chat template; None: the file has neither.
    """
    config = source.config.decoder
    writer = gguf.GGUFWriter(path, "llama" if config.model_type == "mistral" else config.model_type)
    writer.add_context_length(4096)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if text is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        _add_text(writer, text, config.vocab_size)
    for ours, weight in source.weights.items():
        theirs = _name(ours)
        if theirs is None:
            continue
        array = weight.read().float().numpy()
        if config.model_type == "llama" and theirs.endswith(("attn_q.weight", "attn_k.weight")):
            array = _interleaved(array, config.head_dim)
        if array.ndim == 1 or kind == "f32":
            writer.add_tensor(theirs, array)
        else:
            writer.add_tensor(theirs, gguf.quants.quantize(array, KINDS[kind]), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_text(writer: gguf.GGUFWriter, text: TextProcessor, vocabulary: int) -> None:
    """The tokenizer's tokens, filled up to the embedding's rows, and the template as a program in Jinja."""
    told = json.loads(text.tokenizer.to_str())
    tokens = {number: token for token, number in told["model"]["vocab"].items()}
    added = {entry["id"]: entry["content"] for entry in told["added_tokens"]}
    kind, tokens = gguf.TokenType, tokens | added
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(number, f"[unused {number}]") for number in range(vocabulary)])
    writer.add_token_types(
        [kind.CONTROL if n in added else kind.NORMAL if n in tokens else kind.UNUSED for n in range(vocabulary)]
    )
    writer.add_token_merges([" ".join(pair) for pair in told["model"]["merges"]])
    writer.add_eos_token_id(min(text.stop_ids))
    writer.add_add_bos_token(bool(text.template.bos))
    roles = {"user": text.template.user, "assistant": text.template.assistant, "system": text.template.system}
    parts = [
        f"{{% if m.role == {role!r} %}}{{{{ {around[0]!r} + m.content + {around[1]!r} }}}}{{% endif %}}"
        for role, around in roles.items()
        if around is not None
    ]
    begin = f"{{% if add_generation_prompt %}}{{{{ {text.template.assistant[0]!r} }}}}{{% endif %}}"
    writer.add_chat_template("{% for m in messages %}" + "".join(parts) + "{% endfor %}" + begin)


def _interleaved(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp's llama rotates them: in pairs of neighbours."""
    halves = array.reshape(-1, 2, head_dim // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _name(ours: str) -> str | None:
    """What llama.cpp calls a parameter; None for those of the image."""
    if ours in OUTSIDE:
        return OUTSIDE[ours]
    _, _, rest = ours.partition("model.layers.")
    layer, _, inner = rest.partition(".")
    return f"blk.{layer}.{NAMES[inner]}" if inner in NAMES else None


def timings(path: Path) -> Timings:
    """LLaVA-style, all of the image's and the text's tokens through the decoder; and a token behind them."""
    import llama_cpp

    cores = psutil.cpu_count(logical=False)
    length = VISION + TEXT + DECODED + 8
    model = llama_cpp.Llama(
        str(path), n_ctx=length, n_batch=length, n_ubatch=512, n_threads=cores, n_threads_batch=cores, verbose=False
    )
    tokens = np.random.default_rng(0).integers(model.n_vocab(), size=VISION + TEXT).tolist()

    def prefill(count: int) -> float:
        model.reset()
        return milliseconds(lambda: model.eval(tokens[:count]))

    def decode() -> float:
        prefill(VISION + TEXT)
        feed: Any = model.eval
        return milliseconds(lambda: [feed(tokens[i : i + 1]) for i in range(DECODED)]) / DECODED

    return llava_style(prefill, decode)


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
