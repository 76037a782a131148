"""Valid files of every kind, made here: what damage starts from."""

import io
import json
import shutil
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from himix_edge.checkpoints import save_checkpoint
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.model import build_model
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.packed import BITS
from himix_edge.training.recipe import SHIPPED
from tests.conftest import TINY, tiny_text

SHAPE = {
    "model_type": "llama", "vocab_size": 265, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 128, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32",
    "eos_token_id": 2, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
SPECIAL = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|im_end|>")
ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n{% else %}\n"
    "{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def make_material(folder: Path, deep: bool = False) -> None:
    """Fill `folder` unless it is filled; `deep` adds bundles of all targets, which take minutes."""
    ready = folder / ("deep" if deep else "ready")
    if ready.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _checkpoint(folder / "checkpoint")
    _hugging_face(folder / "llama")
    _gguf(folder / "gguf")
    _images(folder / "images")
    for target in ("onnx", *(("onnx_portable", "openvino", "executorch", "coreml") if deep else ())):
        out = folder / f"bundle-{target}"
        if not out.exists():
            request = ExportRequest(
                str(folder / "checkpoint"), target, "int8", out, rounding="nearest", probe_questions=2
            )
            export(plan(request))
    session = open_bundle(folder / "bundle-onnx")
    image = session.encode_image(next((folder / "images").glob("*.png")))
    for bits in BITS:
        image.save(folder / f"image-{bits}.kv", bits)
    shutil.copy(SHIPPED / "nano-enhanced.yaml", folder / "recipe.yaml")
    ready.touch()


def _checkpoint(folder: Path) -> None:
    if not folder.exists():
        torch.manual_seed(0)
        save_checkpoint(folder, build_model(TINY), tiny_text(), {"name": "tiny"})


def _weights() -> dict[str, np.ndarray]:
    source = np.random.default_rng(0)
    width, inner, kv = SHAPE["hidden_size"], SHAPE["intermediate_size"], 16
    shapes = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    weights = {f"model.layers.0.{name}.weight": source.normal(0, 0.1, shape) for name, shape in shapes.items()}
    weights |= {f"{n}.weight": source.normal(0, 0.1, (265, width)) for n in ("model.embed_tokens", "lm_head")}
    norms = ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
    return {n: w.astype(np.float32) for n, w in (weights | {f"{n}.weight": np.ones(width) for n in norms}).items()}


def _hugging_face(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_file(_weights(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], "bos_token_id": 1}))
    vocabulary = {t: i for i, t in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": ZEPHYR}))
    pieces = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "a", "\u2581a"]
    other = Tokenizer(
        BPE({t: i for i, t in enumerate(pieces)}, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True)
    )
    other.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    other.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    other.save(str(folder / "sentencepiece.json"))


def _gguf(folder: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    folder.mkdir(exist_ok=True)
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "q_proj": "blk.0.attn_q",
             "k_proj": "blk.0.attn_k", "v_proj": "blk.0.attn_v", "o_proj": "blk.0.attn_output",
             "gate_proj": "blk.0.ffn_gate", "up_proj": "blk.0.ffn_up", "down_proj": "blk.0.ffn_down",
             "input_layernorm": "blk.0.attn_norm", "post_attention_layernorm": "blk.0.ffn_norm"}  # fmt: skip
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    for kind in (GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0):
        writer = GGUFWriter(str(folder / f"{kind.name}.gguf"), "llama")
        writer.add_context_length(128)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_feed_forward_length(48)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(pieces)
        writer.add_token_types([3] * len(SPECIAL) + [1] * 257)
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(2)
        writer.add_bos_token_id(1)
        writer.add_chat_template(ZEPHYR)
        for name, array in _weights().items():
            place = names[name.split(".")[-2]] + ".weight"
            packed = array.shape[-1] % 32 == 0 and array.ndim == 2 and kind is GGMLQuantizationType.Q8_0
            if packed:
                writer.add_tensor(place, quants.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(place, array if array.ndim == 1 else array.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _images(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    ramp = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3)
    colors = Image.fromarray((ramp % 251).astype(np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    exif[0x11A] = 72.0
    for form, more in (("png", {}), ("jpeg", {}), ("webp", {}), ("gif", {}), ("bmp", {}), ("tiff", {}), ("ppm", {})):
        colors.save(folder / f"colors.{form}", **({"exif": exif} if form in ("png", "jpeg", "webp", "tiff") else more))
    colors.save(folder / "progressive.jpeg", progressive=True, quality=60, icc_profile=b"\0" * 200)
    colors.convert("CMYK").save(folder / "cmyk.jpeg")
    colors.convert("P").save(folder / "palette.png", transparency=3)
    colors.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    Image.fromarray((ramp[..., 0] * 40 % 65536).astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(ramp[..., 0].astype(np.float32) / ramp.max()).save(folder / "float.tiff")
    colors.save(folder / "packed.tiff", compression="tiff_lzw")
    frames = [colors, colors.rotate(90, expand=True)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    data = io.BytesIO()
    colors.save(data, "JPEG")
    entry = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x112, 3, 1, 6) + b"\0\0\0\0"
    app1 = b"\xff\xe1" + struct.pack(">H", len(entry) + 8) + b"Exif\0\0" + entry
    (folder / "turned.jpeg").write_bytes(data.getvalue()[:2] + app1 + data.getvalue()[2:])


def config_json() -> bytes:
    """The tiny model's config.json."""
    return json.dumps(TINY.to_dict()).encode()


def shape_json() -> bytes:
    """A Hugging Face config.json with a rotary embedding that is scaled."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}  # fmt: skip
    return json.dumps({**SHAPE, "rope_scaling": scaling, "decoder": asdict(TINY.decoder)}).encode()
