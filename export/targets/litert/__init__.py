"""LiteRT: .tflite files for XNNPACK, made without a converter."""

from himix_edge.export.targets.litert.target import TARGET

__all__ = ["TARGET"]
