"""What ONNX Runtime can compute on beside the CPU: its execution providers, by the names that `open_bundle` takes."""

OPENVINO = "OpenVINOExecutionProvider"
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
OPENVINO_DEVICES = ("CPU", "GPU", "NPU")


def devices() -> tuple[str, ...]:
    """Those whose providers the installed package has. Whether a machine has the device shows when it is opened."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    names = [name for name, provider in PROVIDERS.items() if provider in there]
    return (*names, *(f"openvino:{kind}" for kind in OPENVINO_DEVICES if OPENVINO in there))


def provider_of(device: str) -> tuple[str, dict[str, str]]:
    """The execution provider of one of `devices`, and its options."""
    name, _, kind = device.partition(":")
    return (OPENVINO, {"device_type": kind}) if name == "openvino" else (PROVIDERS[name], {})
