"""Run bundles: `open_bundle` gives a session; see himix_edge.runtimes.session for what it can do."""

from himix_edge.runtimes.answer import Answer, Piece
from himix_edge.runtimes.chat import Chat
from himix_edge.runtimes.image_kv import ImageKV
from himix_edge.runtimes.opening import open_bundle, open_checkpoint
from himix_edge.runtimes.pool import SessionPool, open_pool
from himix_edge.runtimes.session import Session
from himix_edge.runtimes.stats import Stats
from himix_edge.runtimes.structure import Structure

__all__ = [
    "Answer",
    "Chat",
    "ImageKV",
    "Piece",
    "Session",
    "SessionPool",
    "Stats",
    "Structure",
    "open_bundle",
    "open_checkpoint",
    "open_pool",
]
