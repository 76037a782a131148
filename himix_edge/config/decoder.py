"""The decoder's configuration, with Hugging Face's field names."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.config.families import FAMILIES, family_of
from himix_edge.config.rope import RopeScaling, rope_fields
from himix_edge.config.settings import POSITIONS, refuse_settings, window_of


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of one of the FAMILIES: Llama, Mistral, Qwen2 or Qwen3."""

    model_type: Literal["llama", "mistral", "qwen2", "qwen3"]
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
    max_position_embeddings: int = POSITIONS

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v have biases."""
        return FAMILIES[self.model_type].qkv_bias

    @property
    def qk_norm(self) -> bool:
        """Whether the text's queries and keys are normed per head before they are rotated."""
        return FAMILIES[self.model_type].qk_norm

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """How many numbers a layer's matrices hold, biases and norms aside."""
        return self.hidden_size * (2 * self.q_size + 2 * self.kv_size + 3 * self.intermediate_size)

    @property
    def parameters(self) -> int:
        """How many numbers the decoder's matrices hold, biases and norms aside."""
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * self.layer_parameters + tables * self.vocab_size * self.hidden_size

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

    A window of attention becomes the most positions: within it, it changes nothing.

    Raises:
        InputError: another family, or a setting with which a decoder computes what this one does not.
    """
    refuse_settings(raw, where)
    fields = {f.name for f in dataclasses.fields(DecoderConfig)} - {"rope_theta", "rope_scaling"}
    decoder = {name: raw[name] for name in fields & raw.keys()} | rope_fields(raw, where)
    heads, hidden = raw.get("num_attention_heads"), raw.get("hidden_size")
    if decoder.get("num_key_value_heads") is None:
        decoder["num_key_value_heads"] = heads
    if decoder.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        decoder["head_dim"] = family_of(raw, where).head_dim or hidden // heads
    window, positions = window_of(raw, where), decoder.get("max_position_embeddings", POSITIONS)
    if window is not None and isinstance(positions, int) and window < positions:
        decoder["max_position_embeddings"] = window
    return decoder
