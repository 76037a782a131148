"""Portable ONNX: standard operators only (opset 23: Attention, DequantizeLinear), for browsers and other runtimes.

The K/V cache is an input and an output that grows. Weights are the same integers and scales; a runtime that has faster
kernels for them may fuse them by itself.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.bundle import Bundle
from himix_edge.errors import GateRefused
from himix_edge.export.graphs import (
    Embedding,
    RotaryTable,
    VisionInjector,
    causal_mask,
    injector_outputs,
    quiet,
    run_layers,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import QuantizedLinear, QuantizedModel, QuantizedModule, QuantizedTensor
from himix_edge.export.target import ExportOptions
from himix_edge.export.targets.onnx.target import OPSET, OnnxTarget
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine

if TYPE_CHECKING:
    import onnx_ir as ir

VALUES, SCALE = ".values", ".scale"
EXTERNAL_DATA_BYTES = 1 << 30  # weights beyond this go to a file of their own (protobuf ends at 2 GiB)


class DequantizedWeight(nn.Module):
    """DequantizeLinear of integers (rows, columns) and scales (rows, groups): a weight (rows, columns)."""

    values: Tensor
    scale: Tensor

    def __init__(self, weight: QuantizedModule):
        super().__init__()
        quantized = weight.quantized
        self.name = weight.name
        whole_row = quantized.scale.shape[1] == 1
        self.bits = quantized.bits
        self.attributes: dict[str, int] = {"axis": 0} if whole_row else {"axis": 1, "block_size": quantized.group_size}
        self.register_buffer("values", quantized.values)
        self.register_buffer("scale", quantized.scale[:, 0] if whole_row else quantized.scale)

    def forward(self) -> Tensor:
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", [self.values, self.scale], {**self.attributes}, dtype=torch.float32,
            shape=self.values.shape, version=OPSET,
        )  # fmt: skip


class DequantizedLinear(nn.Module):
    """A linear layer on a dequantized weight."""

    bias: Tensor | None

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.stored = DequantizedWeight(linear)
        self.register_buffer("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.stored().transpose(0, 1)
        return y if self.bias is None else y + self.bias


class Decoder(nn.Module):
    """input_ids, position_ids (1, T) int64; past K/V (1, G, P, h); where pictures stand in the text vision_embeds
    (1, T, d) -> logits (1, V) of the last position, grown K/V."""

    def __init__(self, model: VisionLanguageModel, capacity: int):
        super().__init__()
        self.stack, self.config = model.model, model.config.decoder
        self.rotary = RotaryTable(model.model, capacity)
        self.table = model.model.embed_tokens
        self.stored = DequantizedWeight(self.table) if isinstance(self.table, QuantizedModule) else None
        self.head = None if self.config.tie_word_embeddings else model.lm_head
        self.first_injected = model.config.injected_layers[0]
        self.plain = model.config.layers_without_image

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, past: list[Tensor], vision_embeds: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        cos, sin = self.rotary(position_ids)
        table = self.table.weight if self.stored is None else self.stored()
        present: list[Tensor] = []
        kinds = [self.first_injected, *self.plain[:1]]  # layers without the image have a shorter past, and one mask
        masks = [causal_mask(input_ids.shape[1], past[2 * layer].shape[2])[None, None] for layer in kinds]

        def attend(i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            attended, *grown, _ = torch.onnx.ops.attention(
                query, key, value, masks[i in self.plain], past[2 * i], past[2 * i + 1],
                scale=self.config.head_dim**-0.5,
            )  # fmt: skip
            present.extend(grown)
            return attended

        x = Embedding(lambda ids: F.embedding(ids, table))(input_ids, vision_embeds)
        x = run_layers(self.stack, x, cos, sin, attend)
        x = self.stack.norm(x[:, -1])
        logits = x @ table.transpose(0, 1) if self.head is None else self.head(x)
        return (logits, *present)


class OnnxPortableTarget(OnnxTarget):
    """Three .onnx files without operators of any vendor."""

    name = "onnx_portable"
    disk = (1.05, 1.05)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        return {
            "vision_encoder": lambda folder: self._portable_encoder(model, folder),
            "vision_injector": lambda folder: self._portable_injector(model, folder),
            "decoder": lambda folder: self._portable_decoder(model, options, folder),
        }

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The files without ONNX Runtime's own fusions. Raises GateRefused for an operator that is not standard."""
        import onnx

        for role in bundle.manifest.roles:
            graph = onnx.load(bundle.role_path(role), load_external_data=False).graph
            foreign = sorted({node.domain for node in graph.node} - {""})
            if foreign:
                raise GateRefused(f"{role}: operators of {', '.join(foreign)} in a portable export")
        return load_engine(bundle, activations="float")

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        import onnx

        for role in bundle.manifest.roles:
            stored = {tensor.name: tensor for tensor in onnx.load(bundle.role_path(role)).graph.initializer}
            for name, tensor in stored.items():
                if name.endswith(VALUES):
                    values = onnx.numpy_helper.to_array(tensor).astype("int8")
                    scale = onnx.numpy_helper.to_array(stored[name.removesuffix(VALUES) + SCALE])
                    scales = torch.from_numpy(scale.reshape(values.shape[0], -1).copy())
                    bits = 4 if tensor.data_type == onnx.TensorProto.INT4 else 8
                    yield name.removesuffix(VALUES), QuantizedTensor(torch.from_numpy(values), scales, bits)

    def _portable_encoder(self, model: QuantizedModel, folder: Path) -> list[Path]:
        vision = model.reference.config.vision
        assert vision is not None
        pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
        tower = swap_linears(share_weights(model.reference).vision_tower, DequantizedLinear)
        return _export(tower, (pixels,), ["image"], ["vision_features"], None, folder / "vision_encoder.onnx")

    def _portable_injector(self, model: QuantizedModel, folder: Path) -> list[Path]:
        config = model.reference.config
        assert config.vision is not None
        features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
        injector = VisionInjector(swap_linears(share_weights(model.reference), DequantizedLinear))
        names = injector_outputs(config)
        return _export(injector, (features,), ["vision_features"], names, None, folder / "vision_injector.onnx")

    def _portable_decoder(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        config, rows = model.reference.config.decoder, model.reference.config.vision_rows
        decoder = Decoder(swap_linears(share_weights(model.reference), DequantizedLinear), options.capacity)
        past = [f"past_key_values.{i}.{kind}" for i in range(config.num_hidden_layers) for kind in ("key", "value")]
        present = [name.replace("past_key_values", "present") for name in past]
        time, image_past, text_past = (torch.export.Dim(n) for n in ("sequence_length", "past", "text_past"))
        slots = [4 if rows[i // 2] is None else 5 for i in range(len(past))]
        heads, size = config.num_key_value_heads, config.head_dim
        embeds = [torch.zeros(1, 3, config.hidden_size)] if model.reference.config.images else []
        arguments = (
            torch.zeros(1, 3, dtype=torch.int64), torch.arange(3)[None],
            [torch.zeros(1, heads, n, size) for n in slots], *embeds,
        )  # fmt: skip
        cache = [{2: text_past if n == 4 else image_past} for n in slots]
        names = ["input_ids", "position_ids", *past, *("vision_embeds" for _ in embeds)]
        dynamic = ({1: time}, {1: time}, cache, *({1: time} for _ in embeds))
        return _export(decoder, arguments, names, ["logits", *present], dynamic, folder / "decoder.onnx")


TARGET = OnnxPortableTarget()


def _export(
    module: nn.Module,
    arguments: tuple[object, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: tuple[object, ...] | None,
    path: Path,
) -> list[Path]:
    """Trace and write one graph; 4-bit integers are narrowed behind the exporter, which has no such type."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), arguments, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs,
            dynamic_shapes=dynamic, verbose=False, optimize=False,
        )  # fmt: skip
        assert program is not None
        _narrow(program.model.graph, module)
        stored = (value.const_value for value in program.model.graph.initializers.values())
        size = sum(tensor.nbytes for tensor in stored if tensor is not None)
        program.save(str(path), external_data=size > EXTERNAL_DATA_BYTES)
    data = path.with_name(path.name + ".data")
    return [path, data] if data.exists() else [path]


def _narrow(graph: "ir.Graph", module: nn.Module) -> None:
    """Name integers and scales by their parameter; store 4-bit ones as int4."""
    import ml_dtypes
    import onnx_ir as ir

    for place, child in module.named_modules(remove_duplicate=False):
        if not isinstance(child, DequantizedWeight):
            continue
        for kind, suffix in ((".values", VALUES), (".scale", SCALE)):
            if place + kind not in graph.initializers:
                continue
            value = graph.initializers.pop(place + kind)
            value.name = child.name + suffix
            if kind == ".values" and child.bits == 4 and value.const_value is not None:
                narrow = value.const_value.numpy().astype(ml_dtypes.int4)
                value.const_value = ir.tensor(narrow, dtype=ir.DataType.INT4, name=value.name)
                value.type = ir.TensorType(ir.DataType.INT4)
            graph.register_initializer(value)
