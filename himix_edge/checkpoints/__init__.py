"""Checkpoints in and out: ours, the HiMix authors', Hugging Face's and GGUF. Nothing is ever unpickled."""

from himix_edge.checkpoints.folder import (
    CHECKPOINT,
    load_checkpoint,
    save_checkpoint,
    save_source,
    save_trained,
    write_source,
    write_trained,
)
from himix_edge.checkpoints.identity import image_kv_id
from himix_edge.checkpoints.source import Source, open_source

__all__ = [
    "CHECKPOINT",
    "Source",
    "image_kv_id",
    "load_checkpoint",
    "open_source",
    "save_checkpoint",
    "save_source",
    "save_trained",
    "write_source",
    "write_trained",
]
