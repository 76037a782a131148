"""The bundle: one folder per (model, target, precision), described by manifest.json and checked when opened.

Nothing in a bundle is trusted: the manifest is validated against this schema, every path has to stay inside the
folder, and every file has to have the stated size and SHA-256 before a runtime sees it.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from himix_edge.config import ModelConfig
from himix_edge.errors import GateRefused, InputError
from himix_edge.files import sha256
from himix_edge.reading import first_problem
from himix_edge.text import ChatTemplate

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
ROLES = ("vision_encoder", "vision_injector", "decoder")


class Record(BaseModel):
    """Base of the manifest's parts: immutable, and a field that is not in the schema is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Record):
    """A file of the bundle, its path relative to the folder with forward slashes."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Preprocessing(Record):
    """What an app does to an image; `method` names himix_edge.preprocess's rule, `image_size` is S in pixels."""

    image_size: int = Field(gt=0)
    method: Literal["pillow-bilinear-squash", "pillow-bicubic-squash"]


class Quantisation(Record):
    """How the weights were quantised: bits and group size per role (0: one scale for each output channel)."""

    precision: Literal["none", "int8", "int4"]
    bits: dict[str, int]
    group_size: int = Field(ge=0)
    method: str
    activations: Literal["float", "float16", "int8"]


class GenerationDefaults(Record):
    """What `generate` uses unless told otherwise; temperature 0 is greedy."""

    max_new_tokens: int = Field(default=64, gt=0)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class ParityResult(Record):
    """One comparison of the gate: `value` had to be within `limit` (at most, or at least for an agreement)."""

    stage: str
    role: str
    metric: str
    value: float
    limit: float
    passed: bool


class SelfTest(Record):
    """One question about one image whose exact answer any app can check on its device."""

    image: str
    prompt: str
    pixels_sha256: str
    token_ids: list[int]
    text: str
    ends: bool = True  # whether the answer stops there; else it goes on
    decisive: bool = True  # whether the model is surer of it than devices round differently; random weights are not

    def accepts(self, token_ids: Sequence[int | None]) -> bool:
        """Whether a device that answers so is right."""
        return list(token_ids) == self.token_ids or not self.decisive


class Manifest(Record):
    """manifest.json; see the field types."""

    schema_version: Literal[1]
    name: str
    target: str
    roles: dict[str, list[FileRecord]]
    files: list[FileRecord]
    model: dict[str, Any]
    preprocessing: Preprocessing
    quantisation: Quantisation
    chat_template: ChatTemplate
    generation: GenerationDefaults
    context_capacity: int = Field(gt=0)
    vision_tokens: int = Field(gt=0)
    image_kv_id: str
    tools: dict[str, str]
    provenance: dict[str, Any]
    weights: dict[str, str] = {}  # quantised parameter -> digest of its integers and scales, see export.quantisation
    parity: list[ParityResult]
    selftest: SelfTest


class Bundle:
    """An opened, verified bundle."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self.config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))

    @property
    def bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(record.bytes for record in all_files(self.manifest))

    def role_path(self, role: str) -> Path:
        """The main file of a role (its first)."""
        return self.folder / self.manifest.roles[role][0].path


def open_verified(folder: str | Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        InputError: not a bundle, a manifest that breaks the schema or has an unknown version, a path that leaves
            the folder, a missing file.
        GateRefused: a file whose size or hash is not the manifest's.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    with ThreadPoolExecutor() as pool:  # hashing a large file keeps one core busy
        list(pool.map(partial(_check_file, folder), all_files(manifest)))
    return Bundle(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """Parse and validate manifest.json without touching the other files. Raises InputError."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "no manifest.json in it; is it a bundle?" if folder.is_dir() else "no such bundle folder"
        raise InputError(f"{folder}: {what}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: larger than {MAX_MANIFEST_BYTES >> 20} MiB; refused")
    try:
        raw = json.loads(path.read_bytes())
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(f"{path}: schema version {version!r}; this himix-edge reads version {SCHEMA_VERSION}")
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    missing = [role for role in ROLES if not manifest.roles.get(role)]
    if missing:
        raise InputError(f"{path}: roles: no file for {', '.join(missing)}")
    for record in all_files(manifest):
        _check_path(path, record.path)
    _check_path(path, manifest.selftest.image)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def file_record(folder: Path, path: Path) -> FileRecord:
    """Size and hash of a file below `folder`."""
    return FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256(path))


def all_files(manifest: Manifest) -> list[FileRecord]:
    """Every file once: a program may serve several roles."""
    records = [*(record for records in manifest.roles.values() for record in records), *manifest.files]
    return list({record.path: record for record in records}.values())


def _check_path(manifest: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise InputError(f"{manifest}: path {name!r} leaves the bundle; refused")


def _check_file(folder: Path, record: FileRecord) -> None:
    path = folder / record.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: a link that leaves the bundle; refused")
    if not path.is_file():
        raise InputError(f"{path}: missing; the bundle is incomplete, export or copy it again")
    size = path.stat().st_size
    if size != record.bytes:
        raise GateRefused(f"{path}: {size} bytes, the manifest says {record.bytes}; export or copy the bundle again")
    if sha256(path) != record.sha256:
        raise GateRefused(
            f"{path}: content does not match its SHA-256 in the manifest; export or copy the bundle again"
        )
