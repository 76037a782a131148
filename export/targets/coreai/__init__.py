"""Core AI, Apple's successor beside Core ML: see `target`."""

from himix_edge.export.targets.coreai.target import TARGET

__all__ = ["TARGET"]
