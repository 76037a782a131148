"""Where a model comes from: one opening for our own checkpoints, the authors', Hugging Face folders, hub ids and GGUF.

Nothing is read but configurations and headers; `Source.weights` reads a tensor when it is asked for.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from tokenizers import Tokenizer

from himix_edge.checkpoints.assemble import check_names, expected_shapes, meta_model
from himix_edge.checkpoints.fresh import fresh_weights
from himix_edge.checkpoints.heads import with_its_head
from himix_edge.checkpoints.lazy import LazyTensor, Weights, checked
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.tower_weights import efficientnet_lite0_weights
from himix_edge.checkpoints.trained import Base, overlay, read_base
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.files import as_path
from himix_edge.image_text import Slots, refuse_other_text
from himix_edge.names import as_name
from himix_edge.parts import TOWER
from himix_edge.presets import DEFAULT_MODEL, resolve_model
from himix_edge.reading import JsonObject, read_json
from himix_edge.text import TOKENIZER, ChatTemplate, TextProcessor, load_tokenizer

HF_MODEL_TYPE = "himix"
FINAL = "final"  # the folder that a training run writes its model into


@dataclass(frozen=True)
class Source:
    """A model that can be loaded: what it is, and how to read its parts."""

    name: str  # for the names of bundles and their files, see `names.as_name`
    where: str  # for messages
    config: ModelConfig
    weights: Weights  # parameter names are this project's
    load_tokenizer: Callable[[], Tokenizer]
    load_template: Callable[[], ChatTemplate]
    files: tuple[Path, ...] = ()  # everything that decides the weights; empty for random ones
    provenance: JsonObject = field(default_factory=dict)
    base: Base | None = None  # of a checkpoint that holds only what was trained
    trained: Weights = field(default_factory=dict)  # what that holds; `weights` has it on its base
    load_ends: Callable[[], Sequence[tuple[object, str]]] = tuple  # further ids of ends, and where they stand
    adapter: JsonObject | None = None  # what was merged into the weights, see `adapters.merged`

    def recorded(self, part: str) -> JsonObject:
        """What `provenance` says of a part, "recipe" or "converted"; {} where it has none."""
        found = self.provenance.get(part)
        return found if isinstance(found, dict) else {}

    def load_text(self) -> TextProcessor:
        """Tokenizer and chat template.

        Raises:
            InputError: the source has none that can be used, or a tokenizer with ids for which the model has no row.
        """
        tokenizer = self.load_tokenizer()
        check_ids(tokenizer, self.config, self.where)
        from himix_edge.checkpoints.chat_templates import with_ends

        template, images = with_ends(self.load_template(), self.load_ends(), tokenizer), self.config.images
        names = ("config.json's images", "the chat template's image")
        refuse_other_text(images, template.image, self.where, names)
        text = TextProcessor(tokenizer, template, f"{self.where}: its chat template")
        text.check_ids(self.where)
        if images is not None:
            text.check_slot(images.slot_id)
        return text

    def words_before_a_picture(self) -> list[int]:
        """Ids of what stands in front of a picture of one tile in a model's text; none where the image comes first."""
        images = self.config.images
        if images is None:
            return []
        ids = self.load_text().encode_pictures([Slots(0, 0, self.config.tile_tokens)])
        return ids[: ids.index(images.slot_id)]


def open_source(source: str | Path) -> Source:
    """Open a model by path or name.

    Args:
        source: a checkpoint folder (ours, the HiMix authors', or a Hugging Face language model or
            vision-language model), a .gguf file, the name of a model that ships with the package ("nano"), or a hub id
            OWNER/NAME.

    Raises:
        InputError: nothing there, a config that is not understood or contradicts the weights (tensors are named),
            damaged files, weights in a pickle format (never opened), or no way to the hub.
    """
    as_path(source)
    if str(source).endswith(".gguf"):
        return _gguf(Path(source))
    from himix_edge.checkpoints.hub import download, is_hub_id

    if is_hub_id(str(source)):
        return _folder(download(str(source)), name=as_name(str(source).rpartition("/")[2]))
    folder = resolve_model(source)
    return _folder(folder, model_name(folder))


def model_name(path: Path) -> str:
    """What a model is called that lies at `path`: its folder's name; of a training's `final` the run's."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 (a link keeps its own name)
    if path.name == FINAL and path.parent.name:
        path = path.parent
    return as_name(path.stem if path.suffix == ".gguf" else path.name)


def check_ids(tokenizer: Tokenizer, config: ModelConfig, where: str) -> None:
    """Raises InputError if the tokenizer gives ids for which the embedding has no row, naming such a token."""
    rows, vocabulary = config.decoder.vocab_size, tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        raise InputError(
            f"{where}: the tokenizer has {len(beyond)} tokens more than the embedding's {rows} rows, the first "
            f"{token[:40]!r} with id {number}; resize the model's embedding, or take the added tokens out"
        )


def random_source(config: ModelConfig, name: str, seed: int = 0, text: TextProcessor | None = None) -> Source:
    """A model of this configuration with fresh weights, whose words mean nothing.

    `text` is the shipped nano's, unless pictures need more of it: see `random_preset`.
    """
    weights = fresh_weights(expected_shapes(meta_model(config)), seed)
    text = text or TextProcessor.load(resolve_model(DEFAULT_MODEL))
    provenance: JsonObject = {"random_weights": seed}
    return Source(name, name, config, weights, lambda: text.tokenizer, lambda: text.template, provenance=provenance)


def base_weights(base: Base) -> dict[str, LazyTensor]:
    """The base's decoder and tower. Raises InputError if they cannot be fetched."""
    weights = dict(open_source(fetch(base.decoder)).weights)
    return weights | {f"{TOWER}.{name}": tensor for name, tensor in efficientnet_lite0_weights().items()}


def _folder(folder: Path, name: str) -> Source:
    from himix_edge.checkpoints.chat_templates import folder_ends, folder_template
    from himix_edge.checkpoints.families import open_vlm
    from himix_edge.checkpoints.official import is_official, official_config, official_weights

    raw = read_json(folder / "config.json")
    if isinstance(raw, dict) and raw.get("model_type") == HF_MODEL_TYPE:  # what himix_edge.hf saved
        raw = raw.get("himix")
    provenance: JsonObject = {}
    base = read_base(folder)
    trained: Weights = {}
    vlm = None
    if is_official(raw, folder):
        config = official_config(folder, raw)
        weights = official_weights(folder, raw, config)
    elif (vlm := open_vlm(folder, raw)) is not None:
        config = vlm.config()
        weights = vlm.weights(config)
    else:
        config = ModelConfig.from_dict(raw, str(folder / "config.json"))
        weights = folder_weights(folder)
        if base is not None:
            trained, weights = weights, overlay(base_weights(base), weights, base.lora_scale, str(folder))
        provenance = _provenance(folder / "provenance.json")
    weights = checked(weights, str(folder))
    config = with_its_head(config, weights, str(folder))
    check_names(weights, expected_shapes(meta_model(config)), str(folder))
    files = tuple(sorted(folder.rglob("*.safetensors")))
    tokenizer = cache(partial(_folder_tokenizer, folder, base) if vlm is None else vlm.tokenizer)

    def template() -> ChatTemplate:
        if vlm is not None:
            return vlm.template(config, tokenizer())
        return folder_template(folder, tokenizer())

    return Source(
        name, str(folder), config, weights, tokenizer, template,
        files, provenance, base, trained, lambda: folder_ends(folder),
    )  # fmt: skip


def _provenance(path: Path) -> JsonObject:
    if not path.is_file():
        return {}
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(record).__name__}")
    for part in ("recipe", "converted"):  # what is read of it again
        if not isinstance(record.get(part, {}), dict):
            raise InputError(f"{path}: {part} is not a JSON object")
    return record


def _folder_tokenizer(folder: Path, base: Base | None) -> Tokenizer:
    if (folder / TOKENIZER).is_file():
        return load_tokenizer(folder / TOKENIZER)
    if base is not None:
        return open_source(fetch(base.decoder)).load_tokenizer()
    from himix_edge.checkpoints.tokenizers import folder_tokenizer

    return folder_tokenizer(folder)


def _gguf(path: Path) -> Source:
    from himix_edge.checkpoints.chat_templates import gguf_ends, gguf_template
    from himix_edge.checkpoints.gguf import gguf_config, gguf_weights
    from himix_edge.checkpoints.gguf_file import read_gguf
    from himix_edge.checkpoints.tokenizers import gguf_tokenizer

    file, where = read_gguf(path), str(path)
    config = ModelConfig.from_dict(gguf_config(file), where)
    weights = checked(gguf_weights(file), where)
    check_names(weights, expected_shapes(meta_model(config)), where)
    tokenizer = cache(partial(gguf_tokenizer, file.metadata, where))
    return Source(
        model_name(file.whole), where, config, weights, tokenizer,
        lambda: gguf_template(file.metadata, tokenizer(), where), file.parts,
        load_ends=lambda: gguf_ends(file.metadata, where),
    )  # fmt: skip
