"""The models that are known by name, and the ones that ship with the package."""

from pathlib import Path

from himix_edge.config import DecoderConfig, ModelConfig, VisionConfig
from himix_edge.errors import InputError

SHIPPED = Path(__file__).parent / "assets"
DEFAULT_MODEL = "nano"

NANO_DECODER = DecoderConfig(
    model_type="llama",
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)
NANO_VISION = VisionConfig(
    image_size=64,
    patch_size=8,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    stem_channels=(32, 64, 128),
    feature_layer=-1,
)

PRESETS = {"nano": ModelConfig("himix", NANO_DECODER, NANO_VISION.hidden_size, NANO_VISION)}


def preset(name: str) -> ModelConfig:
    """The HiMix configuration called `name`. Raises InputError listing the known ones."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def resolve_model(source: str | Path) -> Path:
    """The checkpoint folder behind a path or the name of a shipped model. Raises InputError listing both kinds."""
    folder = Path(source)
    if (folder / "config.json").is_file():
        return folder
    if (SHIPPED / str(source) / "config.json").is_file() and folder.name == str(source):
        return SHIPPED / folder.name
    if folder.is_dir():
        raise InputError(f"{folder}: not a checkpoint (no config.json in it)")
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
    raise InputError(
        f"{source}: neither a checkpoint folder nor a shipped model; shipped: {', '.join(shipped) or 'none'}"
    )
