"""The models that are known by name, and the ones that ship with the package."""

from pathlib import Path

from himix_edge.config import DecoderConfig, ModelConfig, RopeScaling, VisionConfig
from himix_edge.errors import InputError
from himix_edge.tower_presets import TOWERS
from himix_edge.vlm_presets import VLMS

SHIPPED = Path(__file__).parent / "assets"
DEFAULT_MODEL = "nano"

LLAMA3_SCALING = RopeScaling(
    factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)

# the sizes of the published checkpoints' config.json
DECODERS = {
    "nano": DecoderConfig("llama", 512, 256, 512, 4, 4, 2, 64, 1e-6, 10000.0, None, True, 512),
    "smollm2-135m": DecoderConfig("llama", 49152, 576, 1536, 30, 9, 3, 64, 1e-5, 100000.0, None, True, 8192),
    "smollm2-360m": DecoderConfig("llama", 49152, 960, 2560, 32, 15, 5, 64, 1e-5, 100000.0, None, True, 8192),
    "qwen2-0.5b": DecoderConfig("qwen2", 151936, 896, 4864, 24, 14, 2, 64, 1e-6, 1000000.0, None, True, 32768),
    "qwen3-0.6b": DecoderConfig("qwen3", 151936, 1024, 3072, 28, 16, 8, 128, 1e-6, 1000000.0, None, True, 40960),
    "tinyllama-1.1b": DecoderConfig("llama", 32000, 2048, 5632, 22, 32, 4, 64, 1e-5, 10000.0, None, False, 2048),
    "llama-3.2-1b": DecoderConfig(
        "llama", 128256, 2048, 8192, 16, 32, 8, 64, 1e-5, 500000.0, LLAMA3_SCALING, True, 131072
    ),
    "llama-3.2-3b": DecoderConfig(
        "llama", 128256, 3072, 8192, 28, 24, 8, 128, 1e-5, 500000.0, LLAMA3_SCALING, True, 131072
    ),
    "vicuna-7b": DecoderConfig("llama", 32000, 4096, 11008, 32, 32, 32, 128, 1e-5, 10000.0, None, False, 4096),
    "mistral-7b": DecoderConfig("mistral", 32768, 4096, 14336, 32, 32, 8, 128, 1e-5, 1000000.0, None, False, 32768),
}
# the paper's tower for its decoders, small ones for the small
DEFAULT_TOWERS = {"nano": "nano", "smollm2-135m": "efficientnet-lite0", "smollm2-360m": "siglip-base-256"}


def tower(name: str) -> VisionConfig:
    """The tower's configuration called `name`. Raises InputError listing the known ones."""
    if name not in TOWERS:
        raise InputError(f"unknown tower {name!r}; known: {', '.join(sorted(TOWERS))}")
    return TOWERS[name]


def preset_names() -> tuple[str, ...]:
    """What `preset` knows."""
    return (*DECODERS, *VLMS)


def preset(name: str, tower_name: str | None = None) -> ModelConfig:
    """The HiMix configuration of the decoder called `name` with the tower called `tower_name`, or its usual one.

    A vision-language model of somebody else's is what it is.

    Raises:
        InputError: an unknown name; the known ones are listed. Another tower for a vision-language model.
    """
    if name in VLMS:
        if tower_name:
            raise InputError(f"--tower {tower_name}: {name} has its own tower; --tower goes with a decoder's preset")
        return VLMS[name].config
    if name not in DECODERS:
        raise InputError(f"unknown preset {name!r}; known: {', '.join(sorted(preset_names()))}")
    vision = tower(tower_name or DEFAULT_TOWERS.get(name, "siglip-so400m"))
    return ModelConfig("himix", DECODERS[name], vision.feature_size, vision)


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
        f"{source}: neither a checkpoint folder, a .gguf file nor a shipped model; "
        f"shipped: {', '.join(shipped) or 'none'}"
    )
