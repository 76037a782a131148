"""ONNX of fixed shapes, for Qualcomm's NPU."""

from himix_edge.export.targets.onnx_qnn.target import TARGET

__all__ = ["TARGET"]
