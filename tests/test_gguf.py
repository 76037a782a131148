"""GGUF files: the same logits as transformers on the same dequantised weights, and hostile files are refused."""

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from himix_edge import load_checkpoint
from himix_edge.checkpoints.gguf import BLOCK, ROOT, gguf_config, gguf_weights
from himix_edge.checkpoints.gguf_file import SUPPORTED, read_gguf
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError

SIZES = {
    "vocab_size": 256, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 5e4,
}  # fmt: skip
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
QUANTISED = gguf.GGMLQuantizationType


def reference(family, tied=True, **settings):
    torch.manual_seed(0)
    config_type, model_type = FAMILIES[family]
    return model_type(config_type(**{**SIZES, "tie_word_embeddings": tied, **settings})).eval()


def interleave(weight, heads):
    """What llama.cpp's converter does to q and k of the llama architecture."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


SCALES = {  # bytes of a block that hold its scales, of the types whose quantiser the package lacks
    "Q2_K": (slice(-4, -2), slice(-2, None)), "Q3_K": (slice(-2, None),), "Q4_K": (slice(0, 2), slice(2, 4)),
    "Q5_K": (slice(0, 2), slice(2, 4)), "Q6_K": (slice(-2, None),),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), (slice(0, 2),)),
    "IQ1_M": (),
}  # fmt: skip


def blocks(weight, kind, rng):
    """Quantised rows; of the types whose quantiser the package lacks, random but sane blocks."""
    if kind.name not in SCALES:
        return gguf.quants.quantize(weight, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (weight.shape[0], weight.shape[1] // block, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16([0.001]).tobytes(), np.uint8)
    for place in SCALES[kind.name]:
        raw[..., place] = scale
    if kind.name == "IQ1_M":  # a nibble of the scale above each three bytes and a half
        for i, nibble in enumerate(int.from_bytes(scale.tobytes(), "little") >> shift & 15 for shift in (0, 4, 8, 12)):
            raw[..., 49 + 2 * i] = raw[..., 49 + 2 * i] & 15 | nibble << 4
    return raw.reshape(weight.shape[0], -1)


def write(path, model, family, kind=QUANTISED.F32, extra=()):
    """The model as a GGUF file; returns the state dict that its dequantised weights make."""
    writer, rng = gguf.GGUFWriter(path, family), np.random.default_rng(0)
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(SIZES["rms_norm_eps"])
    writer.add_rope_freq_base(SIZES["rope_theta"])
    names = {theirs: ours for ours, theirs in ROOT.items()}
    names |= {
        f"model.layers.{i}.{theirs}.{part}": f"blk.{i}.{ours}.{part}"
        for i in range(SIZES["num_hidden_layers"]) for ours, theirs in BLOCK.items() for part in ("weight", "bias")
    }  # fmt: skip
    state = {}
    for name, tensor in model.state_dict().items():
        if name not in names or (name == "lm_head.weight" and model.config.tie_word_embeddings):
            continue
        array = tensor.numpy()
        heads = {"q_proj.weight": SIZES["num_attention_heads"], "k_proj.weight": SIZES["num_key_value_heads"]}
        count = next((h for ending, h in heads.items() if family == "llama" and name.endswith(ending)), 0)
        stored = interleave(array, count) if count else array
        if stored.ndim == 1:
            writer.add_tensor(names[name], stored)
            state[name] = tensor
            continue
        raw = blocks(stored, kind, rng)
        writer.add_tensor(names[name], raw, raw_dtype=kind)
        back = gguf.quants.dequantize(raw, kind).reshape(stored.shape)
        if count:
            back = back.reshape(count, -1, 2, back.shape[1]).swapaxes(1, 2).reshape(back.shape)
        state[name] = torch.from_numpy(np.ascontiguousarray(back, np.float32))
    for name, array in extra:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_on_the_dequantised_weights(tmp_path, family, kind):
    model = reference(family)
    state = write(tmp_path / "model.gguf", model, family, QUANTISED[kind])
    model.load_state_dict(state, strict=False)
    ids = torch.randint(256, (1, 20))
    with torch.no_grad():
        assert torch.allclose(load_checkpoint(tmp_path / "model.gguf")(ids), model(ids).logits, rtol=0, atol=5e-5)


def test_an_untied_head_and_the_sizes_are_read(tmp_path):
    write(tmp_path / "model.gguf", reference("llama", tied=False), "llama")
    file = read_gguf(tmp_path / "model.gguf")
    decoder = ModelConfig.from_dict(gguf_config(file)).decoder
    assert not decoder.tie_word_embeddings
    for name, value in SIZES.items():
        assert getattr(decoder, name) == pytest.approx(value)
    assert "lm_head.weight" in gguf_weights(file)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_found_again(tmp_path, factor):
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    plain, scaled = reference("llama"), reference("llama", rope_scaling=scaling)
    divisors = (plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq).numpy()
    write(tmp_path / "model.gguf", scaled, "llama", extra=[("rope_freqs.weight", divisors)])
    ids = torch.randint(256, (1, 20))
    with torch.no_grad():
        assert torch.allclose(load_checkpoint(tmp_path / "model.gguf")(ids), scaled(ids).logits, rtol=0, atol=5e-5)
    write(tmp_path / "odd.gguf", scaled, "llama", extra=[("rope_freqs.weight", divisors * 3)])
    with pytest.raises(InputError, match="not those of Llama"):
        load_checkpoint(tmp_path / "odd.gguf")


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: write_raw(m, QUANTISED.I32), r"token_embd.weight has type I32.*requantise"),
    (lambda m: write(m, reference("llama"), "gemma"), "architecture 'gemma'"),
    (lambda m: write(m, reference("llama"), "llama", extra=[("blk.0.router.weight", np.zeros((4, 4), np.float32))]),
     "surplus tensor blk.0.router.weight"),
    (lambda m: m.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(64)), "version 1"),
    (lambda m: m.write_bytes(b"PK\x03\x04" + bytes(64)), "not a GGUF file"),
    (lambda m: m.write_bytes(b"GGUF\x03\0\0\0" + (1 << 60).to_bytes(8, "little") * 2), "damaged"),
    (lambda m: None, "no such file"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, change, message):
    change(tmp_path / "model.gguf")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "model.gguf")


def write_raw(path, kind):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 256), np.int32), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_config_that_contradicts_the_weights_is_refused(tmp_path):
    model = reference("llama")
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(128, 256))
    write(tmp_path / "model.gguf", model, "llama")
    with pytest.raises(InputError, match=r"layers.1.mlp.up_proj.weight has shape \(128, 256\)"):
        load_checkpoint(tmp_path / "model.gguf")


def test_damage_is_an_input_error_and_nothing_else(tmp_path):
    path, broken = tmp_path / "model.gguf", tmp_path / "broken.gguf"
    write(path, reference("llama"), "llama", QUANTISED.Q8_0)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 1600
    refused = 0
    for attempt in range(400):
        changed = bytearray(data)
        if attempt % 4 == 0:
            changed = changed[: int(rng.integers(len(data)))]
        else:
            for position in rng.integers(header, size=attempt % 3 + 1):
                changed[position] = int(rng.integers(256))
        broken.write_bytes(changed)
        try:
            load_checkpoint(broken)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200
