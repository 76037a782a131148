"""ONNX graphs of fixed shapes, made for Qualcomm's NPU; here ONNX Runtime runs them on the CPU."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from himix_edge.runtimes.onnx.files import external_data_of
from himix_edge.runtimes.onnx_qnn.chips import chips_here
from himix_edge.runtimes.registry import Runtime

PREFILL = 32  # tokens that the prefill graph takes at once
DECODER_PARTS = ("decoder.onnx", "prefill.onnx", "inputs.onnx")  # the main file first
WEIGHTS = "decoder.weights"


def reads(folder: Path, name: str) -> Iterator[str]:
    """The external data of the graph `name`, and beside the decoder its other graphs and theirs."""
    parts = DECODER_PARTS if PurePosixPath(name).name == DECODER_PARTS[0] else ()
    beside = [str(PurePosixPath(name).with_name(part)) for part in parts[1:]]
    yield from beside
    for each in (name, *beside):
        yield from external_data_of(folder, each)


RUNTIME = Runtime(
    name="onnx_qnn",
    title="ONNX Runtime (graphs for Qualcomm's NPU)",
    ending=".onnx",
    packages=("onnxruntime",),
    modules=("onnxruntime",),
    extra="onnx",
    run_extra="onnxruntime",
    in_all=False,
    reads=reads,
    devices=chips_here,
)
