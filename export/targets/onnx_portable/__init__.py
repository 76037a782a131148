"""ONNX in standard operators alone, for browsers and other runtimes."""

from himix_edge.export.targets.onnx_portable.target import TARGET

__all__ = ["TARGET"]
