"""The decoder's configuration, with Hugging Face's field names."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.config.rope import RopeScaling, rope_fields
from himix_edge.config.settings import refuse_settings


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
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0, le=1e15)] = 10000.0
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

    @property
    def parameters(self) -> int:
        """How many numbers the decoder's matrices hold, biases and norms aside."""
        layer = self.hidden_size * (2 * self.q_size + 2 * self.kv_size + 3 * self.intermediate_size)
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * layer + tables * self.vocab_size * self.hidden_size

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary embeddings")


def decoder_fields(raw: dict[str, object], where: str) -> dict[str, object]:
    """The fields of a `DecoderConfig` in a Hugging Face or himix-edge config.json, not yet validated.

    Raises:
        InputError: a setting that changes what a Llama / Qwen2 decoder computes and that this one does not compute.
    """
    refuse_settings(raw, where)
    fields = {f.name for f in dataclasses.fields(DecoderConfig)} - {"rope_theta", "rope_scaling"}
    decoder = {name: raw[name] for name in fields & raw.keys()} | rope_fields(raw, where)
    heads, hidden = raw.get("num_attention_heads"), raw.get("hidden_size")
    if decoder.get("num_key_value_heads") is None:
        decoder["num_key_value_heads"] = heads
    if decoder.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        decoder["head_dim"] = hidden // heads
    return decoder
