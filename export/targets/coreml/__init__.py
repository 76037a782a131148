"""Core ML, as packages for iOS 18."""

from himix_edge.export.targets.coreml.target import TARGET

__all__ = ["TARGET"]
