"""Bundles on Hugging Face's hub: `hf://OWNER/NAME` in place of a folder."""

import re
from pathlib import Path

from himix_edge import extras
from himix_edge.cache import cache_folder, say
from himix_edge.errors import InputError, last_line
from himix_edge.files import as_path
from himix_edge.manifest import MANIFEST, all_files, read_manifest
from himix_edge.names import as_name

ADDRESS = re.compile(r"hf:/{1,2}([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})", re.ASCII)


def repository(folder: object) -> str | None:
    """OWNER/NAME of `hf://OWNER/NAME`, which a `Path` has with one slash; None for what is no such address."""
    found = ADDRESS.fullmatch(str(folder)) if isinstance(folder, str | Path) else None
    return found[1] if found else None


def local_bundle(folder: str | Path) -> Path:
    """The folder itself, or that of a repository's bundle, fetched unless the newest one is here already.

    Raises:
        InputError: the hub cannot be reached and the bundle was never fetched, or the repository holds none.
        BackendMissing: huggingface_hub is not installed.
    """
    repo = repository(folder)
    return as_path(folder) if repo is None else _fetched(repo)


def _fetched(repo: str) -> Path:
    """What the manifest lists is fetched, and nothing else; whoever opens the bundle checks every hash."""
    with extras.needed("huggingface-hub", extras.HUB):
        import huggingface_hub
    place = cache_folder() / "bundles" / as_name(repo.replace("/", "--"))
    try:
        revision = huggingface_hub.HfApi().model_info(repo).sha
        huggingface_hub.hf_hub_download(repo, MANIFEST, revision=revision, local_dir=place)
        names = [record.path for record in all_files(read_manifest(place))]  # plain names, no patterns
        huggingface_hub.snapshot_download(repo, revision=revision, local_dir=place, allow_patterns=names)
    except InputError:
        raise
    except Exception as error:  # its errors come from several libraries without a common base
        reason = last_line(str(error), type(error).__name__)
        if not (place / MANIFEST).is_file():
            raise InputError(f"{repo}: no bundle can be fetched from the hub ({reason})") from None
        say(f"{repo}: the hub does not answer ({reason}); the bundle that was fetched before is opened")
    return place
