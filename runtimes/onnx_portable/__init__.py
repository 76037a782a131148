"""ONNX graphs of standard operators, for any ONNX runtime and for browsers; here ONNX Runtime runs them."""

from himix_edge.runtimes.onnx.files import external_data_of
from himix_edge.runtimes.onnx.providers import devices
from himix_edge.runtimes.registry import PythonBoard, Runtime

RUNTIME = Runtime(
    name="onnx_portable",
    title="ONNX Runtime (portable graphs)",
    ending=".onnx",
    packages=("onnxruntime",),
    modules=("onnxruntime",),
    extra="onnx",
    run_extra="onnxruntime",
    in_all=False,
    reads=external_data_of,
    devices=devices,
    board=PythonBoard(("himix_edge.runtimes.onnx_portable.engine", "himix_edge.runtimes.onnx.engine")),
)
