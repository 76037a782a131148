"""From a plain language model and a vision tower to a HiMix (or vanilla) model with fresh injection weights."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from himix_edge.checkpoints.assemble import check_names, expected_shapes, meta_model
from himix_edge.checkpoints.fresh import fresh_weights
from himix_edge.checkpoints.hub import download, is_hub_id
from himix_edge.checkpoints.lazy import Weights, checked
from himix_edge.checkpoints.named_templates import NAMED
from himix_edge.checkpoints.packages import PACKAGES, Package, fetch
from himix_edge.checkpoints.source import Source, open_source
from himix_edge.checkpoints.tower_weights import efficientnet_lite0_weights, tower_config, tower_weights
from himix_edge.config import CNNConfig, Injection, ModelConfig, VisionConfig
from himix_edge.errors import InputError
from himix_edge.parts import TOWER, part_of
from himix_edge.presets import DECODERS, DEFAULT_TOWERS, tower
from himix_edge.text import ChatTemplate, read_template


@dataclass(frozen=True)
class Conversion:
    """What the user asked for; the fields are `himix convert`'s options."""

    source: str
    tower: str | None = None
    vanilla: bool = False
    injection: Injection = field(default_factory=Injection)
    feature_layers: tuple[int, ...] = (-2,)
    pooling: int = 1
    image_size: int | None = None
    chat_template: str | None = None
    seed: int = 0


def _package(source: str) -> Package | None:
    return PACKAGES.get(source) if source in DECODERS and not Path(source).exists() else None


def open_base(source: str) -> Source:
    """What is converted, as it is: see `open_source`; a decoder of PACKAGES is fetched."""
    return open_source(fetch(source) if _package(source) else source)


def convert(request: Conversion) -> Source:
    """The converted model, ready to be saved; weights are read when they are written.

    Raises:
        InputError: see `open_source`; also a plain language model without a tower, a tower of unknown weights, or
            injection settings that do not fit the layers.
    """
    package = _package(request.source)
    base = open_base(request.source)
    origin = f"{package.name} {package.version} ({package.license})" if package else base.name
    if request.chat_template is not None and base.config.images is not None:
        raise InputError(
            f"--chat-template: {base.where}: pictures stand in this model's text, where its own template puts them; "
            "write that as chat_template.jinja into the folder"
        )
    if request.chat_template is not None:
        chosen = _template(request.chat_template)
        base = replace(base, load_template=lambda: chosen)
    tower_name = request.tower or (DEFAULT_TOWERS.get(request.source) if package else None)
    if tower_name is None:
        if base.config.vision_hidden_size is None:
            raise InputError(f"{base.where}: a plain language model; add --tower FOLDER, HUB-ID or efficientnet-lite0")
        return base
    vision, weights = _tower(tower_name, request)
    try:
        config = ModelConfig(
            "vanilla" if request.vanilla else "himix",
            base.config.decoder,
            vision.feature_size,
            vision,
            request.injection,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    expected = expected_shapes(meta_model(config))
    merged = {
        n: t
        for n, t in base.weights.items()
        if part_of(n) == "decoder" or (part_of(n) == "injection" and n in expected)
    }
    merged |= {f"{TOWER}.{name}": tensor for name, tensor in weights.items()}
    missing = {n: s for n, s in expected.items() if n not in merged and part_of(n) == "injection"}
    merged |= fresh_weights(missing, request.seed)
    check_names(merged, expected, f"{base.where} with {tower_name}")
    kept = {name: merged[name] for name in expected}
    record = {"source": origin, "tower": Path(tower_name).name, "fresh_tensors": len(missing), "seed": request.seed}
    provenance = {**base.provenance, "converted": {**record, "injection": request.injection.to_dict()}}
    wordless = cache(lambda: replace(base.load_template(), image=None))  # this model's images are not in its text
    return replace(base, config=config, weights=kept, provenance=provenance, load_template=wordless)


def _tower(name: str, request: Conversion) -> tuple[VisionConfig, Weights]:
    """A tower's configuration and weights: a folder, a hub id, or the one whose weights a package brings."""
    if name == "efficientnet-lite0":
        if request.feature_layers != (-2,):
            raise InputError("--feature-layers: efficientnet-lite0 gives its last feature map and nothing else")
        return _cnn(name, request), efficientnet_lite0_weights()
    folder = download(name) if is_hub_id(name) else Path(name)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--tower {name}: neither a folder with config.json, a hub id, nor efficientnet-lite0; no other tower's "
            "weights come in a package"
        )
    config = tower_config(
        folder, feature_layers=request.feature_layers, pooling=request.pooling, image_size=request.image_size
    )
    return config, checked(tower_weights(folder, config), str(folder))


def _cnn(name: str, request: Conversion) -> CNNConfig:
    config = tower(name)
    assert isinstance(config, CNNConfig)
    try:
        return replace(config, pooling=request.pooling, image_size=request.image_size or config.image_size)
    except ValueError as error:
        raise InputError(f"--tower {name}: {error}") from None


def _template(name: str) -> ChatTemplate:
    """A chat template by name or from a file in this project's format."""
    if name in NAMED:
        return NAMED[name]
    if Path(name).is_file():
        return read_template(Path(name))
    raise InputError(f"--chat-template {name}: neither a file nor one of {', '.join(sorted(NAMED))}")
