"""Hugging Face hub ids, through huggingface_hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from himix_edge import extras
from himix_edge.errors import InputError

TOKENIZER_FILES = ("*.json", "*.jinja", "tokenizer.model", "merges.txt")
FILES = ("*.safetensors", *TOKENIZER_FILES)


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form OWNER/NAME and is not a path of this machine."""
    return bool(re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", source)) and not Path(source).exists()


def download(repo: str, files: Sequence[str] = FILES) -> Path:
    """The local folder of a repository's weights, configuration and tokenizer (no code, no pickles), or of `files`.

    Raises:
        InputError: the hub cannot be reached, or there is no such repository or no access to it.
        BackendMissing: huggingface_hub is not installed.
    """
    with extras.needed("huggingface-hub", extras.CONVERT):
        import huggingface_hub
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=list(files)))
    except Exception as error:  # its errors come from several libraries without a common base
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{repo}: cannot be fetched from the hub ({reason[0] if reason else type(error).__name__}); "
            "download its files on a machine that can, and give the folder"
        ) from None
