"""ONNX Runtime, with its own operators and a cache that steps write in place."""

from himix_edge.runtimes.onnx.files import external_data_of
from himix_edge.runtimes.onnx.providers import devices
from himix_edge.runtimes.registry import PythonBoard, Runtime

RUNTIME = Runtime(
    name="onnx",
    title="ONNX Runtime",
    ending=".onnx",
    packages=("onnxruntime",),
    modules=("onnxruntime",),
    extra="onnx",
    run_extra="onnxruntime",
    reads=external_data_of,
    board=PythonBoard(("himix_edge.runtimes.onnx.engine",)),
    app=True,
    devices=devices,
    adapters=True,
)
