"""GGUF files: the same logits as transformers on the same dequantised weights, and hostile files are refused."""

import os
import struct

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from benchmarks.peers.llama_cpp import write_source
from himix_edge import load_checkpoint
from himix_edge.checkpoints.gguf import BLOCK, ROOT, gguf_config, gguf_weights
from himix_edge.checkpoints.gguf_file import SUPPORTED, read_gguf
from himix_edge.checkpoints.source import open_source
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError

SIZES = {
    "vocab_size": 256, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 5e4,
}  # fmt: skip
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
QUANTIZED = gguf.GGMLQuantizationType


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


def write(path, model, family, kind=QUANTIZED.F32, extra=(), keys=(), **options):
    """The model as a GGUF file; returns the state dict that its dequantised weights make.

    `extra` are further tensors and `keys` further metadata, (name, value); `options` are GGUFWriter's.
    """
    writer, rng = gguf.GGUFWriter(path, family, **options), np.random.default_rng(0)
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
    kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_int32, float: writer.add_float32,
             list: writer.add_array}  # fmt: skip
    for name, value in dict(keys).items():
        kinds[type(value)](name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_on_the_dequantized_weights(tmp_path, family, kind):
    model = reference(family)
    state = write(tmp_path / "model.gguf", model, family, QUANTIZED[kind])
    model.load_state_dict(state, strict=False)
    ids = torch.randint(256, (1, 20))
    with torch.no_grad():
        assert torch.allclose(load_checkpoint(tmp_path / "model.gguf")(ids), model(ids).logits, rtol=0, atol=5e-5)


def test_qwen3s_heads_have_norms_and_a_size_of_their_own(tmp_path):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=64)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    keys = {"qwen3.attention.key_length": 64, "qwen3.attention.value_length": 64}
    model.load_state_dict(write(tmp_path / "model.gguf", model, "qwen3", QUANTIZED.Q8_0, keys=keys), strict=False)
    ours, ids = load_checkpoint(tmp_path / "model.gguf"), torch.randint(256, (1, 20))
    assert ours.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.allclose(ours(ids), model(ids).logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize("key", [
    ("llama.rope.scaling.factor", 2.0), ("llama.rope.scale_linear", 2.0), ("llama.rope.scaling.type", "yarn"),
    ("llama.rope.scaling.type", 7), ("llama.rope.scaling.attn_factor", 0.5), ("llama.rope.scaling.factor", "1"),
    ("llama.attention.sliding_window", 4096), ("llama.attention.causal", False), ("llama.expert_count", 8),
    ("llama.logit_scale", 0.1), ("llama.embedding_scale", 12.0), ("llama.residual_scale", 0.2),
    ("llama.attention.scale", 0.1), ("llama.final_logit_softcapping", 30.0), ("llama.attention.value_length", 16),
    ("llama.rope.dimension_count", 16), ("llama.attention.key_length", "32"), ("llama.attention.key_length", True),
    ("llama.attention.key_length", -4), ("llama.attention.key_length", 2**30), ("llama.vocab_size", 99),
    ("llama.something.new", 1), ("general.quantization_version", 1), ("general.type", "adapter"),
])  # fmt: skip
def test_a_key_that_would_change_what_is_computed_is_named(tmp_path, key):
    write(tmp_path / "model.gguf", reference("llama"), "llama", keys=[key])
    with pytest.raises(InputError, match=key[0].removeprefix("llama.") if "scaling.type" not in key[0] else "scaling"):
        load_checkpoint(tmp_path / "model.gguf")


def test_keys_that_change_nothing_are_passed_over(tmp_path):
    model = reference("llama")
    write(tmp_path / "model.gguf", model, "llama", keys={
        "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0, "llama.expert_count": 0,
        "llama.vocab_size": 256, "llama.rope.dimension_count": 32, "llama.attention.value_length": 32,
        "llama.tensor_data_layout": "Meta AI original pth", "general.file_type": 0, "general.type": "model",
    }, extra=[("rope_freqs.weight", np.ones(16, np.float32))])  # fmt: skip
    ids = torch.randint(256, (1, 20))
    with torch.no_grad():
        assert torch.allclose(load_checkpoint(tmp_path / "model.gguf")(ids), model(ids).logits, rtol=0, atol=5e-5)


@pytest.fixture
def parts(tmp_path):
    """A model split into files of five tensors each, as llama.cpp's gguf-split names them."""
    write(tmp_path / "tiny.gguf", reference("qwen2"), "qwen2", split_max_tensors=12)
    (tmp_path / "tiny.gguf").unlink(missing_ok=True)
    return sorted(tmp_path.glob("*.gguf"))


def test_a_split_model_is_read_from_any_of_its_parts(tmp_path, parts):
    model = reference("qwen2")
    ids = torch.randint(256, (1, 20))
    assert len(parts) > 2
    for part in (parts[0], parts[-1]):
        source = open_source(part)
        assert (source.name, list(source.files)) == ("tiny", parts)
        with torch.no_grad():
            assert torch.allclose(load_checkpoint(part)(ids), model(ids).logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p[1].unlink(), r"part 1 of \d+ of a split model; tiny-00002-of-.* is missing"),
    (lambda p: p[0].rename(p[0].with_name("one.gguf")), "one part of a model that was split.*join them"),
    (lambda p: p[1].write_bytes(p[2].read_bytes()), "not part 2 of"),
    (lambda p: p[1].write_bytes(b"GGUF"), "not a GGUF file"),
])  # fmt: skip
def test_a_split_model_that_is_not_whole_is_refused(parts, change, message):
    change(parts)
    first = next(path for path in (parts[0], parts[0].with_name("one.gguf")) if path.exists())
    with pytest.raises(InputError, match=message):
        load_checkpoint(first)


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
    (lambda m: write_raw(m, QUANTIZED.I32), r"token_embd.weight has type I32.*requantise"),
    (lambda m: write(m, reference("llama"), "gemma"), "architecture 'gemma'"),
    (lambda m: write(m, reference("llama"), "llama", extra=[("blk.0.router.weight", np.zeros((4, 4), np.float32))]),
     "surplus tensor blk.0.router.weight"),
    (lambda m: m.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(64)), "version 1"),
    (lambda m: m.write_bytes(b"PK\x03\x04" + bytes(64)), "not a GGUF file"),
    (lambda m: write(m, reference("llama"), "llama", extra=[("blk.².attn_norm.weight", np.zeros((4, 4), np.float32))]),
     "surplus tensor blk.².attn_norm.weight"),
    (lambda m: write(m, reference("llama"), "llama", extra=[("blk.00.attn_norm.weight", np.zeros((4, 4), np.float32))]),
     "surplus tensor blk.00.attn_norm.weight"),
    (lambda m: write(m, reference("llama"), "llama", endianess=gguf.GGUFEndian.BIG), "3 in big-endian"),
    (lambda m: m.mkdir(), "a folder"),
    (os.mkfifo, "not a regular file"),
    (lambda m: m.write_bytes(header(entries=[text("a") + u32(8) + text("x")] * 2)), "a is there twice"),
    (lambda m: m.write_bytes(header(entries=[text("a\nb") + u32(8) + text("x")])), "a metadata entry is called"),
    (lambda m: m.write_bytes(header(entries=[text("a") + u32(9) + u32(9) + u64(1)])), "an array of type 9"),
    (lambda m: m.write_bytes(header(entries=[text("a") + u32(8) + u64(1 << 62)])), "truncated"),
    (lambda m: m.write_bytes(header(entries=[text("general.alignment") + u32(4) + u32(0)])), "general.alignment"),
    (lambda m: m.write_bytes(header(entries=[text("general.alignment") + u32(4) + u32(48)])), "general.alignment"),
    (lambda m: m.write_bytes(header([("a", 4, 0, 0), ("b", 4, 0, 0)])), "tensors a and b overlap"),
    (lambda m: m.write_bytes(header([("a", 4, 0, 4)])), "not aligned"),
    (lambda m: m.write_bytes(header([("a", 1 << 39, 0, 0)])), "ends beyond the file"),
    (lambda m: m.write_bytes(header([("a", 4, 0, 1 << 62)])), "ends beyond the file"),
    (lambda m: m.write_bytes(header([("a", 4, 77, 0)])), "type number 77"),
    (lambda m: m.write_bytes(b"GGUF\x03\0\0\0" + (1 << 60).to_bytes(8, "little") * 2), "damaged"),
    (lambda m: None, "no such file"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, change, message):
    change(tmp_path / "model.gguf")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "model.gguf")


def u32(number):
    return struct.pack("<I", number)


def u64(number):
    return struct.pack("<Q", number)


def text(content):
    return u64(len(content.encode())) + content.encode()


def header(tensors=(), entries=()):
    """A file of these tensors (name, columns, type, offset), metadata as it stands, and 64 bytes of payload."""
    head = b"GGUF" + u32(3) + u64(len(tensors)) + u64(len(entries)) + b"".join(entries)
    head += b"".join(text(n) + u32(1) + u64(size) + u32(kind) + u64(at) for n, size, kind, at in tensors)
    return head + bytes(-len(head) % 32) + bytes(64)


def test_a_header_is_bounded_in_what_it_makes(tmp_path):
    """Eight million numbers in 8 MB would be 64 MB of references, and more files can ask for more."""
    array = u32(9) + u32(0) + u64(1 << 20) + bytes(1 << 20)
    (tmp_path / "model.gguf").write_bytes(header(entries=[text(f"k{i}") + array for i in range(8)]))
    with pytest.raises(InputError, match="items in an array"):
        load_checkpoint(tmp_path / "model.gguf")


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = reference("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    write(tmp_path / "model.gguf", model, "llama")
    with pytest.raises(InputError, match=r"layers.1.mlp.up_proj.weight: 1 of its \d+ numbers are NaN"):
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
    write(path, reference("llama"), "llama", QUANTIZED.Q8_0)
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


def test_the_peers_file_of_nano_is_nano(tmp_path):
    """What llama.cpp's server is given for comparison: the same weights, tokenizer and template, read back."""
    source = open_source("nano")
    text = source.load_text()
    write_source(source, "f32", tmp_path / "nano.gguf", text)
    found = open_source(tmp_path / "nano.gguf")
    assert len(found.weights) > 30
    assert all(torch.equal(weight.read(), source.weights[name].read()) for name, weight in found.weights.items())
    assert found.load_template() == source.load_template()
    said = "What color is it? <|im_end|> \u00f6"
    assert found.load_text().encode_text(said) == text.encode_text(said)
