"""Where a model comes from: one opening for our own checkpoints, the authors', Hugging Face folders, hub ids and GGUF.

Nothing is read but configurations and headers; `Source.weights` reads a tensor when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from himix_edge.checkpoints.assemble import check_names, expected_shapes, meta_model
from himix_edge.checkpoints.fresh import fresh_weights
from himix_edge.checkpoints.lazy import Weights
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.trained import Base, base_weights, overlay, read_base
from himix_edge.config import ModelConfig
from himix_edge.presets import DEFAULT_MODEL, resolve_model
from himix_edge.reading import read_json
from himix_edge.text import TEMPLATE, TOKENIZER, ChatTemplate, TextProcessor, load_tokenizer, read_template


@dataclass(frozen=True)
class Source:
    """A model that can be loaded: what it is, and how to read its parts."""

    name: str  # for the names of bundles
    where: str  # for messages
    config: ModelConfig
    weights: Weights  # parameter names are this project's
    load_tokenizer: Callable[[], Tokenizer]
    load_template: Callable[[], ChatTemplate]
    files: tuple[Path, ...] = ()  # everything that decides the weights; empty for random ones
    provenance: dict[str, Any] = field(default_factory=dict)
    base: Base | None = None  # of a checkpoint that holds only what was trained
    trained: Weights = field(default_factory=dict)  # what that holds; `weights` has it on its base

    def load_text(self) -> TextProcessor:
        """Tokenizer and chat template. Raises InputError if the source has none that can be used."""
        return TextProcessor(self.load_tokenizer(), self.load_template())


def open_source(source: str | Path) -> Source:
    """Open a model by path or name.

    Args:
        source: a checkpoint folder (ours, the HiMix authors', or a Hugging Face Llama / Qwen2 one), a .gguf file, the
            name of a model that ships with the package ("nano"), or a hub id OWNER/NAME.

    Raises:
        InputError: nothing there, a config that is not understood or contradicts the weights (tensors are named),
            damaged files, weights in a pickle format (never opened), or no way to the hub.
    """
    if str(source).endswith(".gguf"):
        return _gguf(Path(source))
    from himix_edge.checkpoints.hub import download, is_hub_id

    if is_hub_id(str(source)):
        return _folder(download(str(source)), name=str(source).rpartition("/")[2])
    folder = resolve_model(source)
    return _folder(folder, name=folder.name)


def random_source(config: ModelConfig, name: str, seed: int = 0) -> Source:
    """A model of this configuration with fresh weights; its text is the shipped nano's, and its words mean nothing."""
    weights = fresh_weights(expected_shapes(meta_model(config)), seed)
    text = TextProcessor.load(resolve_model(DEFAULT_MODEL))
    provenance = {"random_weights": seed}
    return Source(name, name, config, weights, lambda: text.tokenizer, lambda: text.template, provenance=provenance)


def _folder(folder: Path, name: str) -> Source:
    from himix_edge.checkpoints.official import is_official, official_config, official_weights

    raw = read_json(folder / "config.json")
    provenance, base = {}, read_base(folder)
    trained: Weights = {}
    if is_official(raw):
        config = official_config(folder, raw)
        weights = official_weights(folder, config)
    else:
        config = ModelConfig.from_dict(raw, str(folder / "config.json"))
        weights = folder_weights(folder)
        if base is not None:
            trained, weights = weights, overlay(base_weights(base), weights, base.lora_scale, str(folder))
        if (folder / "provenance.json").is_file():
            provenance = read_json(folder / "provenance.json")
    check_names(weights, expected_shapes(meta_model(config)), str(folder))
    files = tuple(sorted(folder.rglob("*.safetensors")))
    return Source(
        name, str(folder), config, weights, lambda: _folder_tokenizer(folder, base), lambda: _folder_template(folder),
        files, provenance, base, trained,
    )  # fmt: skip


def _folder_tokenizer(folder: Path, base: Base | None) -> Tokenizer:
    if (folder / TOKENIZER).is_file():
        return load_tokenizer(folder / TOKENIZER)
    if base is not None:
        return open_source(fetch(base.decoder)).load_tokenizer()
    from himix_edge.checkpoints.tokenizers import folder_tokenizer

    return folder_tokenizer(folder)


def _folder_template(folder: Path) -> ChatTemplate:
    if (folder / TEMPLATE).is_file():
        return read_template(folder / TEMPLATE)
    from himix_edge.checkpoints.chat_templates import folder_template

    return folder_template(folder)


def _gguf(path: Path) -> Source:
    from himix_edge.checkpoints.chat_templates import gguf_template
    from himix_edge.checkpoints.gguf import gguf_config, gguf_weights, read_gguf
    from himix_edge.checkpoints.tokenizers import gguf_tokenizer

    file, where = read_gguf(path), str(path)
    config = ModelConfig.from_dict(gguf_config(file), where)
    weights = gguf_weights(file)
    check_names(weights, expected_shapes(meta_model(config)), where)
    return Source(
        path.stem, where, config, weights, lambda: gguf_tokenizer(file.metadata, where),
        lambda: gguf_template(file.metadata, where), (path,),
    )  # fmt: skip
