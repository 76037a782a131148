"""ONNX Runtime, with its own operators: int8 linears, MatMulNBits, GroupQueryAttention."""

from himix_edge.export.targets.onnx.target import TARGET

__all__ = ["TARGET"]
