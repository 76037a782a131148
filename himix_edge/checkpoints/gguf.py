"""GGUF (llama.cpp's format, versions 2 and 3) of the llama and qwen2 architectures.

The header is read by a parser of our own, because a file from anywhere must not exhaust memory: the gguf package's
reader loops over whatever counts a file declares. Here every count, length and offset is compared with the bytes that
are left before anything is made of it. Payloads are dequantised by the gguf package.
"""

import math
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.config import DecoderConfig, RopeScaling
from himix_edge.errors import BackendMissing, InputError
from himix_edge.model.decoder import rope_frequencies

SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
MAX_ENTRIES = 1 << 16  # metadata entries, and tensors
MAX_ITEMS = 1 << 22  # of one array; the largest vocabularies have 2**18
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ROOT = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3_FACTORS = (8.0, 32.0)  # of Llama 3.1 and 3.2, the only two that were published


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file: shape in torch's order, type by name, and the bytes that hold it."""

    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GGUF:
    """A file's metadata and tensors; payloads are read later."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file.

    Raises:
        InputError: missing, damaged or truncated, a version, architecture or tensor type that is not supported.
        BackendMissing: the gguf package is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise BackendMissing("gguf", "convert") from None
    try:
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    header = _Header(path, data)
    if bytes(header.take(4)) != b"GGUF":
        raise InputError(f"{path}: not a GGUF file")
    version = header.scalar("I")
    if version not in (2, 3):
        raise InputError(f"{path}: GGUF version {version} is not supported; versions 2 and 3 (little-endian) are")
    tensor_count, entry_count = header.count(MAX_ENTRIES, "tensors"), header.count(MAX_ENTRIES, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        name = header.string()
        metadata[name] = header.value(header.scalar("I"))
    infos = [_tensor_info(header) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
        raise InputError(f"{path}: general.alignment is {alignment!r}")
    start = -(-header.position // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, number, offset in infos:
        if name in tensors:
            raise InputError(f"{path}: tensor {name} is there twice")
        tensors[name] = _place(path, name, shape, number, start + offset)
        if tensors[name].offset + tensors[name].bytes > len(data):
            raise InputError(f"{path}: truncated: tensor {name} ends beyond the file; download it again")
    file = GGUF(path, metadata, tensors)
    if file.architecture not in ("llama", "qwen2"):
        raise InputError(f"{path}: architecture {file.architecture!r} is not supported; llama and qwen2 are")
    return file


def gguf_config(file: GGUF) -> dict[str, Any]:
    """The decoder's configuration as a Hugging Face config.json has it. Raises InputError naming what is missing."""
    arch, meta = file.architecture, file.metadata
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    if kind != "none":
        raise InputError(f"{file.path}: rope scaling {kind!r} is not supported")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{file.path}: tensor token_embd.weight is missing")

    def number(key: str) -> Any:
        value = meta.get(f"{arch}.{key}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{file.path}: {arch}.{key} is missing or not a number")
        return value

    heads = number("attention.head_count")
    width = number("embedding_length")
    config = {
        "model_type": arch,
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get(f"{arch}.attention.head_count_kv", heads),
        "head_dim": meta.get(f"{arch}.attention.key_length", width // max(heads, 1)),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.get(f"{arch}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "max_position_embeddings": number("context_length"),
    }
    rotated = meta.get(f"{arch}.rope.dimension_count", config["head_dim"])
    if rotated != config["head_dim"]:
        raise InputError(f"{file.path}: rotary embeddings over {rotated} of {config['head_dim']} dimensions")
    if ROPE_FACTORS in file.tensors:
        config["rope_scaling"] = _llama3_scaling(file, config)
    return config


def gguf_weights(file: GGUF) -> dict[str, LazyTensor]:
    """The tensors under Hugging Face's names; each is dequantised to float32 when it is read.

    llama.cpp interleaves the rows of the llama architecture's q and k for its own rotary embedding; that is undone.

    Raises:
        InputError: a tensor that a Llama or Qwen2 decoder has no use for.
    """
    weights = {}
    for name, tensor in file.tensors.items():
        if name == ROPE_FACTORS:
            continue
        heads = 0
        if file.architecture == "llama" and ".attn_q." in name:
            heads = file.metadata["llama.attention.head_count"]
        elif file.architecture == "llama" and ".attn_k." in name:
            heads = file.metadata.get("llama.attention.head_count_kv", file.metadata["llama.attention.head_count"])
        if heads and (not isinstance(heads, int) or tensor.shape[0] % (2 * heads)):
            raise InputError(f"{file.path}: tensor {name} has {tensor.shape[0]} rows for {heads} heads")
        weights[_name(file.path, name)] = LazyTensor(tensor.shape, partial(_read, file.path, tensor, heads))
    return weights


def _name(path: Path, name: str) -> str:
    if name in ROOT:
        return ROOT[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in BLOCK:
        return f"model.layers.{int(parts[1])}.{BLOCK[parts[2]]}.{parts[3]}"
    raise InputError(f"{path}: surplus tensor {name}: not part of a Llama or Qwen2 decoder")


def _read(path: Path, tensor: GGUFTensor, heads: int) -> Tensor:
    from gguf import GGMLQuantizationType, dequantize

    raw = np.fromfile(path, np.uint8, tensor.bytes, offset=tensor.offset)
    if len(raw) != tensor.bytes:
        raise InputError(f"{path}: truncated while it was read")
    values = dequantize(
        raw.reshape(tensor.shape[0] if len(tensor.shape) > 1 else 1, -1), GGMLQuantizationType[tensor.type]
    )
    weight = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(tensor.shape)
    if heads:
        weight = weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
    return weight


def _llama3_scaling(file: GGUF, config: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling: the file keeps only its effect, a divisor for each frequency."""
    divisors = _read(file.path, file.tensors[ROPE_FACTORS], 0).flatten()
    for factor in LLAMA3_FACTORS:
        scaling = RopeScaling(factor, 1.0, 4.0, 8192)
        plain = DecoderConfig("llama", 1, 1, 1, 1, 1, 1, config["head_dim"], rope_theta=config["rope_theta"])
        scaled = DecoderConfig(
            "llama", 1, 1, 1, 1, 1, 1, config["head_dim"], rope_theta=config["rope_theta"], rope_scaling=scaling
        )
        expected = rope_frequencies(plain) / rope_frequencies(scaled)
        if expected.shape == divisors.shape and torch.allclose(expected, divisors, rtol=1e-3):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }  # fmt: skip
    raise InputError(f"{file.path}: {ROPE_FACTORS} are not those of Llama 3.1 or 3.2")


def _tensor_info(header: "_Header") -> tuple[str, tuple[int, ...], int, int]:
    name = header.string()
    dimensions = header.scalar("I")
    if not 1 <= dimensions <= 4:
        raise InputError(f"{header.path}: damaged: tensor {name!r} has {dimensions} dimensions")
    shape = [header.scalar("Q") for _ in range(dimensions)]
    if not all(0 < size <= 1 << 40 for size in shape):
        raise InputError(f"{header.path}: damaged: tensor {name!r} has shape {shape}")
    return name, tuple(reversed(shape)), header.scalar("I"), header.scalar("Q")


def _place(path: Path, name: str, shape: tuple[int, ...], number: int, offset: int) -> GGUFTensor:
    """The bytes that a tensor of type `number` takes. Raises InputError if that type is not supported."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds = {kind.value: kind for kind in GGMLQuantizationType}
    kind = kinds[number].name if number in kinds else f"number {number}"
    if kind not in SUPPORTED:
        raise InputError(
            f"{path}: tensor {name} has type {kind}, which is not supported; requantise the file to one of "
            f"{', '.join(SUPPORTED)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[kinds[number]]
    if shape[-1] % block:
        raise InputError(f"{path}: tensor {name}: {shape[-1]} columns are not whole blocks of {kind}")
    return GGUFTensor(shape, kind, offset, math.prod(shape) // block * block_bytes)


class _Header:
    """A cursor that never goes beyond the file."""

    def __init__(self, path: Path, data: NDArray[np.uint8]):
        self.path, self._data, self.position = path, data, 0

    def take(self, count: int) -> NDArray[np.uint8]:
        if count > len(self._data) - self.position:
            raise InputError(f"{self.path}: truncated or damaged GGUF header")
        self.position += count
        return self._data[self.position - count : self.position]

    def scalar(self, code: str) -> Any:
        code = f"<{code}"
        return struct.unpack(code, bytes(self.take(struct.calcsize(code))))[0]

    def count(self, most: int, what: str) -> int:
        number = int(self.scalar("Q"))
        if number > most:
            raise InputError(f"{self.path}: damaged: {number} {what}")
        return number

    def string(self) -> str:
        try:
            return bytes(self.take(self.scalar("Q"))).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: damaged: a string is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise InputError(f"{self.path}: damaged: metadata of type {kind}")
        item, count = self.scalar("I"), self.count(MAX_ITEMS, "items in an array")
        if item == STRING:
            return [self.string() for _ in range(count)]
        if item not in SCALARS:
            raise InputError(f"{self.path}: damaged: an array of type {item}")
        code = SCALARS[item]
        return list(struct.unpack(f"<{count}{code}", bytes(self.take(count * struct.calcsize(f"<{code}")))))
