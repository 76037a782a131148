"""LiteRT: .tflite files, with a cache that is the caller's."""

from himix_edge.runtimes.litert.files import outside_files
from himix_edge.runtimes.registry import PythonBoard, Runtime

RUNTIME = Runtime(
    name="litert",
    title="LiteRT",
    ending=".tflite",
    packages=("ai-edge-litert",),
    modules=("ai_edge_litert.compiled_model",),
    extra="litert",
    run_extra="litert-runtime",
    reads=outside_files,
    board=PythonBoard(tuple(f"himix_edge.runtimes.{name}" for name in ("litert.engine", "litert.model", "chatter"))),
)
