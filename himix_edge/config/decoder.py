"""The decoder's configuration, with Hugging Face's field names."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from himix_edge.errors import InputError


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency scaling (`rope_type` "llama3" of Hugging Face's rope utilities)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    rope_type: Literal["llama3"] = "llama3"


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama- or Qwen2-family decoder. Qwen2 has biases on q, k and v; Llama has none."""

    model_type: Literal["llama", "qwen2"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 2048

    @property
    def qkv_bias(self) -> bool:
        return self.model_type == "qwen2"

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary embeddings")


def decoder_fields(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a `DecoderConfig` in a Hugging Face or himix-edge config.json, not yet validated.

    Raises:
        InputError: a setting that changes what a Llama / Qwen2 decoder computes and that this one does not compute.
    """
    raw = dict(raw)
    if isinstance(raw.get("rope_parameters"), dict):  # transformers 5 keeps theta and scaling together
        raw.setdefault("rope_theta", raw["rope_parameters"].get("rope_theta"))
        raw.setdefault("rope_scaling", raw["rope_parameters"])
    _refuse_unsupported(raw, where)
    fields = {f.name for f in dataclasses.fields(DecoderConfig)}
    decoder = {name: raw[name] for name in fields & raw.keys()}
    if raw.get("rope_scaling") is not None:
        known = {f.name for f in dataclasses.fields(RopeScaling)}
        decoder["rope_scaling"] = {k: v for k, v in raw["rope_scaling"].items() if k in known}
    heads, hidden = raw.get("num_attention_heads"), raw.get("hidden_size")
    if decoder.get("num_key_value_heads") is None:
        decoder["num_key_value_heads"] = heads
    if decoder.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        decoder["head_dim"] = hidden // heads
    return decoder


def _refuse_unsupported(raw: dict[str, Any], where: str) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise InputError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported; only silu is")
    if raw.get("use_sliding_window"):
        raise InputError(f"{where}: use_sliding_window is not supported")
    if raw.get("mlp_bias"):
        raise InputError(f"{where}: mlp_bias is not supported")
    qwen = raw.get("model_type") == "qwen2"
    if bool(raw.get("attention_bias", qwen)) != qwen:
        raise InputError(f"{where}: attention_bias {raw['attention_bias']} contradicts model_type {raw['model_type']}")
    scaling = raw.get("rope_scaling")
    if scaling is not None:
        kind = (scaling.get("rope_type") or scaling.get("type")) if isinstance(scaling, dict) else scaling
        if kind == "default":
            raw["rope_scaling"] = None
        elif kind != "llama3":
            raise InputError(f"{where}: rope_scaling type {kind!r} is not supported; only llama3 is")
