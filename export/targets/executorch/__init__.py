"""ExecuTorch on XNNPACK, one program with four methods."""

from himix_edge.export.targets.executorch.target import TARGET

__all__ = ["TARGET"]
