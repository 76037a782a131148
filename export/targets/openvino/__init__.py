"""OpenVINO, with a stateful decoder."""

from himix_edge.export.targets.openvino.target import TARGET

__all__ = ["TARGET"]
