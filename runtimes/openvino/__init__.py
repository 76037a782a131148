"""OpenVINO."""

from himix_edge.runtimes.openvino.files import weights_of
from himix_edge.runtimes.registry import PythonBoard, Runtime


def devices() -> tuple[str, ...]:
    """What OpenVINO has a plugin and a driver for, beside the CPU: "gpu", "npu", several as "gpu.0", "gpu.1"."""
    import openvino

    return tuple(name.lower() for name in openvino.Core().available_devices if name != "CPU")


RUNTIME = Runtime(
    name="openvino",
    title="OpenVINO",
    ending=".xml",
    packages=("openvino",),
    modules=("openvino",),
    extra="openvino",
    reads=weights_of,
    devices=devices,
    kv_bits=(32, 8),
    board=PythonBoard(
        tuple(f"himix_edge.runtimes.openvino.{module}" for module in ("engine", "cache", "eight_bits", "signal_stack"))
    ),
    adapters=True,
)
