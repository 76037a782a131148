"""The bundle: one folder per (model, target, precision), described by manifest.json.

`himix_edge.runtimes.verifying` checks its files before a runtime opens them.
"""

from pathlib import Path

from himix_edge.config import ModelConfig
from himix_edge.files import sha256
from himix_edge.held_files import HeldFiles
from himix_edge.manifest import (
    MANIFEST,
    METHODS,
    ROLES,
    AdapterPlaces,
    FileRecord,
    GenerationDefaults,
    Manifest,
    ParityResult,
    Preprocessing,
    Quantization,
    SelfTest,
    all_files,
    cache_bytes,
    read_manifest,
    write_manifest,
)
from himix_edge.text import TOKENIZER, TextProcessor, load_tokenizer

__all__ = [
    "MANIFEST", "METHODS", "ROLES", "AdapterPlaces", "Bundle", "FileRecord", "GenerationDefaults", "Manifest",
    "ParityResult", "Preprocessing", "Quantization", "SelfTest", "all_files", "bundle_text", "cache_bytes",
    "file_record", "read_manifest", "write_manifest",
]  # fmt: skip


class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it is.
        manifest: what it says about itself; docs/bundle-format.md is the specification.
        config: its model's configuration.
        held: its files as they were verified.
    """

    def __init__(self, folder: Path, manifest: Manifest, held: HeldFiles | None = None):
        self.folder = folder
        self.manifest = manifest
        self.held = held or HeldFiles(())
        self.config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))

    @property
    def bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(record.bytes for record in all_files(self.manifest))

    def role_path(self, role: str) -> Path:
        """The main file of a role (its first)."""
        return self.folder / self.manifest.roles[role][0].path


def bundle_text(folder: Path, manifest: Manifest) -> TextProcessor:
    """A bundle's tokenizer and chat template. Raises InputError naming the file that is missing or wrong."""
    return TextProcessor(
        load_tokenizer(folder / TOKENIZER), manifest.chat_template, f"{folder / MANIFEST}: chat_template"
    )


def file_record(folder: Path, path: Path) -> FileRecord:
    """Size and hash of a file below `folder`."""
    return FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256(path))
