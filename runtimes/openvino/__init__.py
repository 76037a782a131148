"""OpenVINO on the CPU."""

from himix_edge.runtimes.openvino.files import weights_of
from himix_edge.runtimes.registry import PythonBoard, Runtime

RUNTIME = Runtime(
    name="openvino",
    title="OpenVINO",
    ending=".xml",
    packages=("openvino",),
    modules=("openvino",),
    extra="openvino",
    reads=weights_of,
    board=PythonBoard(
        tuple(f"himix_edge.runtimes.openvino.{module}" for module in ("engine", "cache", "signal_stack"))
    ),
)
