"""Model configuration: frozen dataclasses, validated once where a config.json enters.

The decoder's fields carry Hugging Face's names and sit at the top level of config.json, so that the
authors' released configs and plain Llama / Qwen2 configs are read as they are.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from himix_edge.errors import InputError

MAX_VALUE = 1 << 24  # no field of a real model is larger; a config that says so is refused before any allocation
MAX_LAYERS = 1024
MAX_CONFIG_BYTES = 1 << 20


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


@dataclass(frozen=True)
class VisionConfig:
    """A ViT tower (pre-norm blocks, exact GELU, learned positions). All sizes in pixels or channels."""

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    stem_channels: tuple[int, ...] = ()  # of 3x3 stride-2 convolutions in place of the patch projection
    feature_layer: int = -2  # index into the hidden states, as in LLaVA: -2 is the penultimate layer's output

    @property
    def num_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_layers_used(self) -> int:
        """Blocks that run: those behind `feature_layer` are never built."""
        return self.num_hidden_layers + 1 + self.feature_layer

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.stem_channels and self.patch_size != 2 ** len(self.stem_channels):
            raise ValueError(
                f"patch_size ({self.patch_size}) must be 2 to the number of stem_channels ({len(self.stem_channels)})"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if not -self.num_hidden_layers <= self.feature_layer <= -1:
            raise ValueError(f"feature_layer ({self.feature_layer}) must be in -{self.num_hidden_layers}..-1")


@dataclass(frozen=True)
class ModelConfig:
    """A vision-language model: `himix` (mixture attention) or `vanilla` (LLaVA-style prefix) on one decoder."""

    architecture: Literal["himix", "vanilla"]
    decoder: DecoderConfig
    vision_hidden_size: int
    vision: VisionConfig | None = None

    def __post_init__(self) -> None:
        if self.vision and self.vision.hidden_size != self.vision_hidden_size:
            raise ValueError(
                f"vision_hidden_size ({self.vision_hidden_size}) contradicts "
                f"vision_config.hidden_size ({self.vision.hidden_size})"
            )

    def first_text_position(self, vision_tokens: int) -> int:
        """Rotary position of the first text token behind `vision_tokens` cache slots: HiMix's have no position."""
        return vision_tokens if self.architecture == "vanilla" else 0

    @staticmethod
    def from_dict(raw: dict[str, Any], where: str = "config") -> "ModelConfig":
        """Validate a config.json's content. Raises InputError naming `where` and the offending field."""
        if not isinstance(raw, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(raw).__name__}")
        raw = dict(raw)
        if isinstance(raw.get("rope_parameters"), dict):  # transformers 5 keeps theta and scaling together
            raw.setdefault("rope_theta", raw["rope_parameters"].get("rope_theta"))
            raw.setdefault("rope_scaling", raw["rope_parameters"])
        _refuse_unsupported(raw, where)
        fields = {f.name for f in dataclasses.fields(DecoderConfig)}
        decoder = {name: raw[name] for name in fields & raw.keys()}
        if "rope_scaling" in raw and raw["rope_scaling"] is not None:
            known = {f.name for f in dataclasses.fields(RopeScaling)}
            decoder["rope_scaling"] = {k: v for k, v in raw["rope_scaling"].items() if k in known}
        heads, hidden = raw.get("num_attention_heads"), raw.get("hidden_size")
        decoder.setdefault("num_key_value_heads", heads)
        if decoder.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
            decoder["head_dim"] = hidden // heads
        vision = raw.get("vision_config")
        model = {
            "architecture": raw.get("architecture", "himix"),
            "decoder": decoder,
            "vision": vision,
            "vision_hidden_size": raw.get("vision_hidden_size", (vision or {}).get("hidden_size")),
        }
        _refuse_absurd(model, where)
        try:
            return TypeAdapter(ModelConfig).validate_python(model)
        except ValidationError as error:
            raise InputError(f"{where}: {first_problem(error)}") from None

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json, the inverse of `from_dict`."""
        flat = {"architecture": self.architecture, **dataclasses.asdict(self.decoder)}
        flat["vision_hidden_size"] = self.vision_hidden_size
        flat["vision_config"] = dataclasses.asdict(self.vision) if self.vision else None
        return flat


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as `field: what is wrong`, in one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def read_json(path: Path) -> Any:
    """Parse a small JSON file. Raises InputError if it is missing, over 1 MiB, or not JSON."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is not a configuration file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _refuse_unsupported(raw: dict[str, Any], where: str) -> None:
    """Refuse settings that change what a Llama / Qwen2 decoder computes and that this one does not compute."""
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


def _refuse_absurd(value: Any, where: str, name: str = "") -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_absurd(item, where, f"{name}.{key}" if name else key)
    elif isinstance(value, int) and not isinstance(value, bool):
        negative_allowed = name.endswith("feature_layer")
        most = MAX_LAYERS if name.endswith("num_hidden_layers") else MAX_VALUE
        if value > most or (value < 1 and not negative_allowed):
            raise InputError(f"{where}: {name} = {value} is out of range")
