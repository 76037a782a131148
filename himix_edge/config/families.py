"""The families of decoders, by `model_type` of a Hugging Face config.json: what sets each apart."""

from dataclasses import dataclass

from himix_edge.errors import InputError


@dataclass(frozen=True)
class Family:
    """What sets a family apart from Llama.

    Attributes:
        qkv_bias: q, k and v have biases.
        qk_norm: every head's queries and keys pass an RMSNorm of their own before they are rotated.
        optional_window: `sliding_window` counts only beside `use_sliding_window`. Else a window is one of attention.
        head_dim, window: what transformers takes for a `head_dim` or `sliding_window` that a config.json lacks; None:
            the width by the heads, and no window.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    optional_window: bool = False
    head_dim: int | None = None
    window: int | None = None


FAMILIES = {
    "llama": Family(),
    "mistral": Family(window=4096),
    "qwen2": Family(qkv_bias=True, optional_window=True),
    "qwen3": Family(qk_norm=True, optional_window=True, head_dim=128),
}


def family_of(raw: dict[str, object], where: str) -> Family:
    """A config.json's family. Raises InputError for another one, by its name."""
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        said = "is missing" if name is None else f"{repr(name)[:40]} is not supported"
        raise InputError(f"{where}: model_type {said}; decoders: {', '.join(FAMILIES)}")
    return FAMILIES[name]
