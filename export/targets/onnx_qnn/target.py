"""ONNX of fixed shapes for Qualcomm's NPU (Hexagon): any CPU runs the same graphs in float.

The decoder is three graphs: `inputs` looks up embeddings and rotary tables on the CPU, `decoder` takes one token,
`prefill` PREFILL of them; all weights are in one file beside them, stored once. Weights are MatMulNBits with our
integers, which the NPU multiplies with float16 activations. What it computes wrongly or not at all is avoided: a cast
of pixels (they are dequantized with a scale of 1), norms in parts, a bias inside MatMulNBits, caches inside operators.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from himix_edge.bundle import Bundle
from himix_edge.errors import InputError
from himix_edge.export.apart import ApartEngine
from himix_edge.export.graphs import (
    VisionInjector,
    injector_outputs,
    quiet,
    replace_module,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedTensor
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.onnx.target import OPSET, name_weights, weights_in
from himix_edge.export.targets.onnx_qnn.compiling import compile_for
from himix_edge.export.targets.onnx_qnn.graphs import (
    Decoder,
    Inputs,
    Linear,
    PlainPatchProjection,
    PlainVisionAttention,
)
from himix_edge.export.tolerance import FLOAT32, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.model.vit import PatchProjection, VisionAttention
from himix_edge.reading import JsonObject
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.onnx_qnn import DECODER_PARTS, PREFILL, WEIGHTS
from himix_edge.runtimes.onnx_qnn.chips import CHIPS
from himix_edge.runtimes.onnx_qnn.engine import load

if TYPE_CHECKING:
    import onnx_ir as ir

EXTERNAL_BYTES = 1 << 10  # tensors from here on go to the file of weights
Graph = tuple[nn.Module, tuple[object, ...], list[str], list[str], tuple[object, ...] | None]


class OnnxQnnTarget:
    """Five .onnx files and one of the decoder's weights."""

    name = "onnx_qnn"
    extra = "onnx"
    disk = (1.05, 1.05)
    activations: Literal["float"] = "float"
    tolerances = Tolerances({"float": FLOAT32}, exact=FLOAT32)

    def tools(self) -> dict[str, str]:
        return versions("onnx", "onnxscript", "onnxruntime", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        return {
            "vision_encoder": lambda folder: _compiled(_encoder(model, folder), options.chips),
            "vision_injector": lambda folder: _compiled(_injector(model, folder), options.chips),
            "decoder": lambda folder: _compiled(_decoder(model, options.capacity, folder), options.chips),
        }

    def check_chips(self, chips: Collection[str]) -> dict[str, str]:
        for chip in chips:
            if chip not in CHIPS:
                known = ", ".join(f"{name} ({each.title})" for name, each in CHIPS.items())
                raise InputError(f"unknown chip {chip!r:.40}; known: {known}")
        return versions("onnxruntime-qnn", extra="qnn")

    def chip_facts(self, folder: Path, chip: str) -> JsonObject:
        """QNN's numbers of the chip, and the SDK that compiled for it."""
        import onnx

        (context,) = onnx.load(folder / chip / DECODER_PARTS[0]).graph.node
        sdk = next(attribute.s.decode() for attribute in context.attribute if attribute.name == "ep_sdk_version")
        return {"soc_model": CHIPS[chip].soc_model, "htp_arch": CHIPS[chip].htp_arch, "sdk": sdk}

    def chip_engine(self, bundle: Bundle, chip: str) -> AbstractContextManager[Engine]:
        files = {role: bundle.role_path(role) for role in bundle.manifest.roles}
        capacity = bundle.manifest.context_capacity
        return ApartEngine(chip, load, files, bundle.config, capacity, None, "float", chip)

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The files themselves, which compute in float wherever a CPU runs them."""
        return load_engine(bundle)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        for records in bundle.manifest.roles.values():
            for record in records:
                if record.path.endswith(".onnx"):
                    yield from weights_in(bundle.folder / record.path, bundle.config)


TARGET = OnnxQnnTarget()


def _compiled(files: list[Path], chips: Collection[str]) -> list[Path]:
    """The files, and for each chip what is compiled of them; the table's rows are looked up on the CPU."""
    graphs = [path for path in files if path.suffix == ".onnx" and path.name != DECODER_PARTS[2]]
    return [*files, *(made for chip in chips for graph in graphs for made in compile_for(chip, graph))]


def _encoder(model: QuantizedModel, folder: Path) -> list[Path]:
    vision = model.reference.config.vision
    assert vision is not None
    tower = swap_linears(share_weights(model.reference).vision_tower, Linear)
    for name, child in list(tower.named_modules()):
        if isinstance(child, VisionAttention):
            replace_module(tower, name, PlainVisionAttention(child))
        if isinstance(child, PatchProjection):
            replace_module(tower, name, PlainPatchProjection(child))
    pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
    graph = _traced((tower, (pixels,), ["image"], ["vision_features"], None))
    _dequantize_pixels(graph.graph)
    return _save({"vision_encoder.onnx": graph}, folder, "vision_encoder.weights")


def _injector(model: QuantizedModel, folder: Path) -> list[Path]:
    config = model.reference.config
    assert config.vision is not None
    injector = VisionInjector(swap_linears(share_weights(model.reference), Linear))
    features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
    graph = _traced((injector, (features,), ["vision_features"], injector_outputs(config), None))
    return _save({"vision_injector.onnx": graph}, folder, "vision_injector.weights")


def _decoder(model: QuantizedModel, capacity: int, folder: Path) -> list[Path]:
    own = swap_linears(share_weights(model.reference), Linear)
    config = own.config.decoder
    pairs = [f"{i}.{kind}" for i in range(config.num_hidden_layers) for kind in ("key", "value")]
    masks = ["mask", *(["text_mask"] if own.config.layers_without_image else [])]
    inputs = ["embeds", "cos", "sin", *masks, *(f"past.{name}" for name in pairs)]
    outputs = ["logits", *(f"new.{name}" for name in pairs)]
    heads, size, half = config.num_key_value_heads, config.head_dim, config.head_dim // 2
    group = config.num_attention_heads // heads
    graphs: dict[str, ir.Model] = {}
    step, prefill, looked_up = DECODER_PARTS
    for name, count in ((step, 1), (prefill, PREFILL)):
        arguments = (
            torch.zeros(1, count, config.hidden_size), torch.zeros(1, 1, count, half), torch.zeros(1, 1, count, half),
            [torch.zeros(1, 1, group * count, capacity + count) for _ in masks],
            [torch.zeros(1, heads, capacity, size) for _ in pairs],
        )  # fmt: skip
        graphs[name] = _traced((Decoder(own), arguments, inputs, outputs, None))
    time = {1: torch.export.Dim("sequence_length")}
    tokens, names = torch.zeros(1, 3, dtype=torch.int64), ["input_ids", "position_ids"]
    numbers = (tokens, torch.arange(3)[None])
    graphs[looked_up] = _traced((Inputs(own, capacity), numbers, names, ["embeds", "cos", "sin"], (time, time)))
    return _save(graphs, folder, WEIGHTS)


def _traced(graph: Graph) -> "ir.Model":
    module, arguments, inputs, outputs, dynamic = graph
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), arguments, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs,
            dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
    assert program is not None
    name_weights(program.model.graph, module)
    return program.model


def _dequantize_pixels(graph: "ir.Graph") -> None:
    """Pixels become floats by DequantizeLinear: the NPU's cast of uint8 is wrong for some chips, and says nothing."""
    import onnx_ir as ir

    (cast,) = [node for node in graph if node.op_type == "Cast" and node.inputs[0] is graph.inputs[0]]
    one, zero = (
        ir.Value(name=name, const_value=ir.tensor(value, name=name), type=ir.TensorType(kind), shape=ir.Shape(()))
        for name, value, kind in (
            ("pixel_scale", np.float32(1), ir.DataType.FLOAT), ("pixel_zero", np.uint8(0), ir.DataType.UINT8)
        )
    )  # fmt: skip
    for value in (one, zero):
        graph.register_initializer(value)
    made = ir.node("DequantizeLinear", [graph.inputs[0], one, zero])
    (pixels,) = made.outputs
    pixels.name, pixels.shape, pixels.type = "pixels", cast.outputs[0].shape, cast.outputs[0].type
    ir.convenience.replace_all_uses_with(cast.outputs[0], pixels)
    graph.insert_before(cast, made)
    graph.remove(cast, safe=True)


def _save(graphs: dict[str, "ir.Model"], folder: Path, weights: str) -> list[Path]:
    """Write the graphs, and one file of their weights, where equal ones are once."""
    import onnx_ir as ir

    values = [value for model in graphs.values() for value in model.graph.initializers.values()]
    large = [(v, v.const_value) for v in values if v.const_value is not None and v.const_value.nbytes >= EXTERNAL_BYTES]
    unique = {_digest(tensor): tensor for _, tensor in large}
    if unique:
        stored = ir.external_data.convert_tensors_to_external(list(unique.values()), folder, weights)
        placed = dict(zip(unique, stored, strict=True))
        for value, tensor in large:
            value.const_value = placed[_digest(tensor)]
    for name, model in graphs.items():
        ir.save(model, folder / name)
    return [*(folder / name for name in graphs), *([folder / weights] if unique else [])]


def _digest(tensor: "ir.TensorProtocol") -> tuple[object, ...]:
    return (tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest())
