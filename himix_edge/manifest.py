"""manifest.json: what a bundle says about itself, validated strictly. Nothing in it is trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from himix_edge.config import ImageLayout, ModelConfig
from himix_edge.config.vision import Resample
from himix_edge.errors import InputError
from himix_edge.image_text import refuse_other_text
from himix_edge.low_rank import MOST_RANK
from himix_edge.names import Name
from himix_edge.paths_inside import check_paths
from himix_edge.reading import MAX_VALUE, read_json, validated
from himix_edge.text import TOKENIZER, ChatTemplate

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 42
MAX_CACHE_BYTES = 1 << 38
MAX_IMAGE_SIZE = 8192  # pixels of a side; an app makes S x S x 3 bytes of every image
ROLES = ("vision_encoder", "vision_injector", "decoder")
Method = Literal["pillow-bilinear-squash", "pillow-bicubic-squash", "pillow-tiles"]
METHODS: dict[Resample, Method] = {"bilinear": "pillow-bilinear-squash", "bicubic": "pillow-bicubic-squash"}
TILES: Method = "pillow-tiles"  # as `Preprocessing.layout` says

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Label = Annotated[str, StringConstraints(max_length=256)]
Text = Annotated[str, StringConstraints(max_length=1 << 16)]
Count = Annotated[int, Field(gt=0, le=MAX_VALUE)]


class Record(BaseModel):
    """Base of the manifest's parts: immutable, and a field that is not in the schema is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(Record):
    """A file of the bundle, its path relative to the folder with forward slashes."""

    path: str
    bytes: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: Digest


class Preprocessing(Record):
    """What an app does to an image; `method` names himix_edge.preprocess's rule, `image_size` is S in pixels.

    `layout` is there with the method "pillow-tiles": how a picture becomes tiles, and the id of what stands for them.
    """

    image_size: int = Field(gt=0, le=MAX_IMAGE_SIZE)
    method: Method
    layout: ImageLayout | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, stored: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without `layout` where there is none, as earlier readers know it."""
        fields: dict[str, object] = stored(self)
        return {name: value for name, value in fields.items() if value is not None}


class Quantization(Record):
    """How the weights were quantised: bits and group size per role (0: one scale for each output channel)."""

    precision: Literal["none", "int8", "int4"]
    bits: dict[Label, Annotated[int, Field(gt=0, le=64)]]
    group_size: int = Field(ge=0, le=MAX_VALUE)
    method: Label
    activations: Literal["float", "float16", "int8"]


class GenerationDefaults(Record):
    """What `generate` uses unless told otherwise; temperature 0 is greedy."""

    max_new_tokens: Count = 64
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class ParityResult(Record):
    """One comparison of the gate: `value` had to be within `limit` (at most, or at least for an agreement)."""

    stage: Label
    role: Label
    metric: Label
    value: float
    limit: float
    passed: bool


class AdapterPlaces(Record):
    """That the graphs take adapters: of a rank up to `rank`, made for the model that `base` names.

    `scales` is the file with what an export moved between linears, see docs/bundle-format.md; null: nothing.
    """

    rank: int = Field(gt=0, le=MOST_RANK)
    base: Digest
    scales: str | None = None


class SelfTest(Record):
    """One question about one image whose exact answer any app can check on its device."""

    image: str
    prompt: Text
    pixels_sha256: Digest
    token_ids: list[Annotated[int, Field(ge=0, le=MAX_VALUE)]]
    text: Text
    ends: bool = True  # whether the answer stops there; else it goes on
    decisive: bool = True  # whether the model is surer of it than devices round differently; random weights are not

    def accepts(self, token_ids: Sequence[int | None]) -> bool:
        """Whether a device that answers so is right."""
        return list(token_ids) == self.token_ids or not self.decisive


class Manifest(Record):
    """manifest.json; see the field types."""

    schema_version: Literal[1]
    name: Name
    target: Name
    roles: dict[Label, list[FileRecord]]
    files: list[FileRecord]
    model: dict[str, object]
    preprocessing: Preprocessing
    quantization: Quantization = Field(alias="quantisation")  # the schema's name
    chat_template: ChatTemplate
    generation: GenerationDefaults
    context_capacity: Count
    vision_tokens: Count
    image_kv_id: Label
    tools: dict[Label, Label]
    provenance: dict[str, object]
    weights: dict[str, Digest] = {}  # quantised parameter -> digest of its integers and scales
    parity: list[ParityResult]
    selftest: SelfTest
    adapters: AdapterPlaces | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, stored: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without `adapters` where there are none, as earlier readers know it."""
        fields: dict[str, object] = stored(self)
        if self.adapters is None:
            fields.pop("adapters", None)
        return fields


def read_manifest(folder: Path) -> Manifest:
    """Parse and validate manifest.json without touching the other files.

    Raises:
        InputError: no bundle, a manifest that breaks the schema or contradicts itself, or that has an unknown version.
    """
    path = folder / MANIFEST
    if not _is_there(path):
        what = "no manifest.json in it; is it a bundle?" if _is_folder(folder) else "no such bundle folder"
        raise InputError(f"{folder}: {what}")
    if path.is_symlink():
        raise InputError(f"{path}: a link; a bundle holds the files themselves; refused")
    raw = read_json(path, MAX_MANIFEST_BYTES)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(f"{path}: schema version {version!r:.40}; this himix-edge reads version {SCHEMA_VERSION}")
    manifest = validated(Manifest, raw, str(path))
    _check_files(path, manifest)
    _check_model(path, manifest, ModelConfig.from_dict(manifest.model, str(path)))
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")


def all_files(manifest: Manifest) -> list[FileRecord]:
    """Every file once: a program may serve several roles."""
    records = [*(record for records in manifest.roles.values() for record in records), *manifest.files]
    return list({record.path: record for record in records}.values())


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() or path.is_symlink()
    except OSError:  # a name that is too long
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _check_files(path: Path, manifest: Manifest) -> None:
    """Everything that is opened by name has to be among the files that are checked."""
    missing = [role for role in ROLES if not manifest.roles.get(role)]
    if missing:
        raise InputError(f"{path}: roles: no file for {', '.join(missing)}")
    strange = [role for role in manifest.roles if role not in ROLES]
    if strange:
        raise InputError(f"{path}: roles: {strange[0]!r} is none of {', '.join(ROLES)}")
    records = [*(record for records in manifest.roles.values() for record in records), *manifest.files]
    check_paths([record.path for record in records] + [manifest.selftest.image], str(path))
    listed: dict[str, FileRecord] = {}
    for record in records:
        if listed.setdefault(record.path, record) != record:
            raise InputError(f"{path}: {record.path} is listed twice, with different sizes or hashes")
    scales = manifest.adapters.scales if manifest.adapters else None
    for name in (TOKENIZER, manifest.selftest.image, *([scales] if scales is not None else ())):
        if name not in listed:
            raise InputError(f"{path}: {name} is not among the listed files, so nothing vouches for it; refused")


def _check_model(path: Path, manifest: Manifest, config: ModelConfig) -> None:
    """What the manifest says about its model once more, for apps, has to be what the model's configuration says."""
    vision, decoder = config.vision, config.decoder
    if vision is None:
        raise InputError(f"{path}: model: no vision_config; a bundle's model takes images")
    said = {
        "vision_tokens": (manifest.vision_tokens, config.tile_tokens),
        "preprocessing.image_size": (manifest.preprocessing.image_size, vision.image_size),
        "preprocessing.method": (manifest.preprocessing.method, TILES if config.images else METHODS[vision.resample]),
        "preprocessing.layout": (manifest.preprocessing.layout, config.images),
    }
    refuse_other_text(config.images, manifest.chat_template.image, str(path), ("model.images", "chat_template.image"))
    for name, (found, expected) in said.items():
        if found != expected:
            raise InputError(f"{path}: {name} is {found}, its model's configuration says {expected}")
    if not manifest.vision_tokens < manifest.context_capacity <= decoder.max_position_embeddings:
        raise InputError(
            f"{path}: context_capacity {manifest.context_capacity} must be more than the {manifest.vision_tokens} "
            f"vision tokens and at most the model's {decoder.max_position_embeddings}"
        )
    if cache_bytes(config, manifest.context_capacity) > MAX_CACHE_BYTES:
        raise InputError(f"{path}: its cache would take more than {MAX_CACHE_BYTES >> 30} GiB; refused")
    too_large = [token for token in manifest.selftest.token_ids if token >= decoder.vocab_size]
    if too_large or len(manifest.selftest.token_ids) > manifest.context_capacity:
        what = f"no token {too_large[0]} in the vocabulary" if too_large else "longer than the context"
        raise InputError(f"{path}: selftest.token_ids: {what}")


def cache_bytes(config: ModelConfig, capacity: int) -> int:
    """Keys and values of `capacity` slots in float32."""
    decoder = config.decoder
    return 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * capacity * decoder.head_dim * 4
