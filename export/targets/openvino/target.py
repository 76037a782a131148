"""OpenVINO: a stateful decoder, whose attention is paged when it is opened; integers stored as i4 and i8 constants.

The graphs are traced from the model's own modules by torch.export. Integers pass the converter as int8 and 4-bit ones
are narrowed behind it; scales are float16, which holds them exactly.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.bundle import Bundle
from himix_edge.errors import GateRefused
from himix_edge.export.graphs import (
    Embedding,
    RotaryTable,
    Swapped,
    VisionInjector,
    causal_mask,
    factors_of,
    injector_outputs,
    keep_injection,
    quiet,
    run_layers,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import QuantizedLinear, QuantizedModel, QuantizedModule, QuantizedTensor
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.openvino.operators import decompose
from himix_edge.export.tolerance import FLOAT32, INT8, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.model.adapted import Factors, TakesFactors, adapt
from himix_edge.runtimes.adapter import no_adapter
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.openvino.engine import OpenVinoEngine

if TYPE_CHECKING:
    from openvino import Model, Node
    from openvino import Tensor as Constants


class StoredWeight(nn.Module):
    """Integers (rows, groups, group) and scales, dequantized in the graph; OpenVINO fuses that into its matmul."""

    values: Tensor
    scale: Tensor

    def __init__(self, quantized: QuantizedTensor):
        super().__init__()
        self.register_buffer("values", quantized.values.unflatten(1, (-1, quantized.group_size)))
        self.register_buffer("scale", quantized.scale.half()[..., None])

    def forward(self) -> Tensor:
        return (self.values.half() * self.scale).flatten(1).float()


class StoredLinear(nn.Module):
    """A linear layer on a stored weight."""

    bias: Tensor | None

    def __init__(self, stored: StoredWeight, bias: Tensor | None):
        super().__init__()
        self.stored = stored
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.stored(), self.bias)


class FloatWeight(nn.Module):
    """A weight that stays float, in the place of a StoredWeight."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embeddings (B, heads, T, h) with cos, sin (B, 1, T, h), in the form that OpenVINO fuses."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class Decoder(nn.Module):
    """input_ids, position_ids (B, T) int64; beam_idx (B,) int32; past K/V (B, G, P, h); where pictures stand in the
    text vision_embeds (B, T, d) -> logits (1, V) of the last position of the last sequence and the grown K/V.
    OpenVINO knows the cache only where `beam_idx` gathers it.

    Paged attention has the tokens of all sequences on one axis, hence the logits of one only."""

    def __init__(self, model: VisionLanguageModel, capacity: int):
        super().__init__()
        self.stack = model.model
        self.rotary = RotaryTable(model.model, capacity)
        self.table = _weight(model.model.embed_tokens)
        self.head = self.table if model.config.decoder.tie_word_embeddings else _weight(model.lm_head)
        self.first_injected = model.config.injected_layers[0]
        self.plain = model.config.layers_without_image

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        beam_idx: Tensor,
        past: list[Tensor],
        vision_embeds: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        new = input_ids.shape[1]
        cos, sin = (torch.cat([half, half], dim=-1) for half in self.rotary(position_ids))
        present: list[Tensor] = []
        kinds = [self.first_injected, *self.plain[:1]]  # layers without the image have a shorter past, and one mask
        masks = [causal_mask(new, past[2 * layer].shape[2])[None, None] for layer in kinds]

        def attend(i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key = torch.cat([past[2 * i].index_select(0, beam_idx), key], dim=2)
            value = torch.cat([past[2 * i + 1].index_select(0, beam_idx), value], dim=2)
            present.extend((key, value))
            heads, kv_heads = query.shape[1], key.shape[1]
            key, value = (x[:, :, None].expand(-1, -1, heads // kv_heads, -1, -1).flatten(1, 2) for x in (key, value))
            mask = masks[i in self.plain]
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        x = Embedding(lambda ids: F.embedding(ids, self.table()))(input_ids, vision_embeds)
        x = run_layers(self.stack, x, cos, sin, attend, rotate)
        return (F.linear(self.stack.norm(x.flatten(0, 1)[-1:]), self.head()), *present)


class OpenVinoTarget:
    """Three .xml + .bin pairs for OpenVINO's CPU plugin."""

    name = "openvino"
    extra = "openvino"
    disk = (1.05, 1.05)
    activations: None = None
    tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32)

    def tools(self) -> dict[str, str]:
        return versions("openvino", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        return {
            "vision_encoder": lambda folder: self._encoder(model, folder),
            "vision_injector": lambda folder: self._injector(model, options, folder),
            "decoder": lambda folder: self._decoder(model, options, folder),
        }

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The same files on states, compiled for float32 throughout. Raises GateRefused if attention is not fused.

        The states are what a CPU without paged attention has, and what reads the mask.
        """
        files = {role: bundle.role_path(role) for role in bundle.manifest.roles}
        capacity = bundle.manifest.context_capacity
        factors = None if bundle.manifest.adapters is None else no_adapter(bundle.config)
        engine = OpenVinoEngine(files, bundle.config, capacity, None, "float", paging=False, factors=factors)
        layers, fused = bundle.config.decoder.num_hidden_layers, engine.layer_types["ScaledDotProductAttention"]
        if fused != layers:
            raise GateRefused(f"decoder: OpenVINO fused {fused} of {layers} attention layers with their cache")
        return engine

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        import openvino

        for role in bundle.manifest.roles:
            graph = openvino.Core().read_model(bundle.role_path(role))
            for multiply, values, scale in _dequantizations(graph):
                integers = torch.from_numpy(_integers(values)).flatten(1)
                scales = torch.from_numpy(scale.get_data().astype(np.float32)).flatten(1)
                bits = 4 if values.get_output_element_type(0).bitwidth == 4 else 8
                yield multiply.get_friendly_name(), QuantizedTensor(integers, scales, bits)

    def _encoder(self, model: QuantizedModel, folder: Path) -> list[Path]:
        vision = model.reference.config.vision
        assert vision is not None
        tower = _swap(share_weights(model.reference).vision_tower)
        pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
        graph = _convert(tower, (pixels,), None, ["image"], ["vision_features"], model)
        return _save(graph, folder / "vision_encoder.xml")

    def _injector(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        config, rank = model.reference.config, options.adapter_rank
        assert config.vision is not None
        features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
        injector = VisionInjector(_swap(keep_injection(share_weights(model.reference))))
        names, factors = injector_outputs(config), factors_of(config, "vision_injector", rank)
        if factors is not None:
            adapt(injector.model, factors)
        graph = _convert(injector, (features,), None, ["vision_features"], names, model, factors, rank)
        return _save(graph, folder / "vision_injector.xml")

    def _decoder(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        config, rows = model.reference.config.decoder, model.reference.config.vision_rows
        factors = factors_of(model.reference.config, "decoder", options.adapter_rank)
        own = _swap(share_weights(model.reference))
        if factors is not None:
            adapt(own, factors)
        module = Decoder(own, options.capacity)
        heads, size = config.num_key_value_heads, config.head_dim
        batch, time, image_past, text_past = (torch.export.Dim(name) for name in ("b", "t", "p", "q"))
        past = [f"past.{i}.{kind}" for i in range(config.num_hidden_layers) for kind in ("key", "value")]
        present = [name.replace("past", "present") for name in past]
        # sizes that differ, so that torch.export takes none for another
        slots = [4 if rows[i // 2] is None else 5 for i in range(len(past))]
        arguments: tuple[object, ...] = (
            torch.zeros(2, 3, dtype=torch.int64), torch.arange(3).repeat(2, 1), torch.arange(2, dtype=torch.int32),
            [torch.zeros(2, heads, n, size) for n in slots],
        )  # fmt: skip
        cache = [{0: batch, 2: text_past if n == 4 else image_past} for n in slots]
        tokens = {0: batch, 1: time}
        dynamic: tuple[object, ...] = (tokens, tokens, {0: batch}, cache)
        names = ["input_ids", "position_ids", "beam_idx", *past]
        if model.reference.config.images is not None:
            arguments, dynamic = (*arguments, torch.zeros(2, 3, config.hidden_size)), (*dynamic, tokens)
            names.append("vision_embeds")
        outputs = ["logits", *present]
        graph = _convert(module, arguments, dynamic, names, outputs, model, factors, options.adapter_rank)
        graph.reshape({name: openvino.PartialShape([-1, heads, -1, size]) for name in past})
        apply_make_stateful_transformation(graph, dict(zip(past, present, strict=True)))
        _start_empty(graph, heads, size)
        return _save(graph, folder / "decoder.xml")


TARGET = OpenVinoTarget()


def _weight(module: nn.Module) -> nn.Module:
    if isinstance(module, StoredLinear):
        return module.stored
    return StoredWeight(module.quantized) if isinstance(module, QuantizedModule) else FloatWeight(module.weight)  # type: ignore[arg-type]


def _swap(module: Swapped) -> Swapped:
    def make(linear: QuantizedLinear) -> nn.Module:
        return StoredLinear(StoredWeight(linear.quantized), linear.bias)

    return swap_linears(module, make)


def _convert(
    module: nn.Module,
    arguments: tuple[object, ...],
    dynamic: tuple[object, ...] | None,
    inputs: list[str],
    outputs: list[str],
    model: QuantizedModel,
    factors: Factors | None = None,
    most_rank: int = 0,
) -> "Model":
    """Trace and convert; inputs, outputs and quantized weights are named, 4-bit ones narrowed.

    The graph takes `factors` besides, of any rank up to `most_rank`.
    """
    import openvino
    from openvino.frontend import OpConversionFailure
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    if factors is not None:
        module, inputs = TakesFactors(module, factors), [*inputs, *factors.names]
        arguments, dynamic = factors.behind(arguments, dynamic, most_rank)
    with quiet(), torch.no_grad():
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic)
        spelled = decompose(program.module(check_guards=False))
        try:
            graph = openvino.convert_model(TorchFXPythonDecoder(spelled, dynamic_shapes=dynamic is not None))
        except OpConversionFailure:  # an operator of a tower of others
            graph = openvino.convert_model(program)
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    _name_weights(graph, model)
    return graph


def _name_weights(graph: "Model", model: QuantizedModel) -> None:
    """Call each dequantization by its parameter, found by its integers, and narrow 4-bit integers to i4."""
    import openvino

    names = {_fingerprint(tensor.values.numpy(), tensor.scale.numpy()): name for name, tensor in model.tensors.items()}
    kept = []
    for multiply, values, scale in _dequantizations(graph):
        integers = values.get_data()
        name = names.get(_fingerprint(integers.reshape(integers.shape[0], -1), scale.get_data()[..., 0]))
        if name is None:
            continue  # not what was quantized: the gate will say so
        multiply.set_friendly_name(name)
        if model.tensors[name].bits == 4:
            packed = (integers[..., 0::2] & 15 | integers[..., 1::2] << 4).astype(np.uint8)
            tensor = openvino.Tensor(packed, integers.shape, openvino.Type.i4)
            narrow = openvino.op.Constant(tensor)
            kept.append((packed, tensor))
            for user in values.output(0).get_target_inputs():
                user.replace_source_output(narrow.output(0))
    _SHARED[id(graph)] = kept


# constants use these arrays' memory until their graph is saved
_SHARED: "dict[int, list[tuple[NDArray[np.uint8], Constants]]]" = {}


def _dequantizations(graph: "Model") -> "list[tuple[Node, Node, Node]]":
    """(multiply, integer constant, scale constant) of every quantized weight in a graph."""
    found = []
    for node in graph.get_ops():
        if node.get_type_name() != "Multiply":
            continue
        sources = [node.input_value(i).get_node() for i in range(2)]
        for convert, scale in (sources, sources[::-1]):
            if convert.get_type_name() != "Convert" or scale.get_type_name() != "Constant":
                continue
            values = convert.input_value(0).get_node()
            if values.get_type_name() == "Constant" and values.get_output_element_type(0).get_type_name() in (
                "i8",
                "i4",
            ):
                found.append((node, values, scale))
    return found


def _integers(constant: "Node") -> NDArray[np.int8]:
    """An i4 or i8 constant as int8."""
    shape = list(constant.get_output_shape(0))
    if constant.get_output_element_type(0).bitwidth == 8:
        return np.array(constant.get_data())
    packed = np.array(constant.get_data()).view(np.uint8).reshape(*shape[:-1], shape[-1] // 2)
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int8).reshape(shape)
    return nibbles - 16 * (nibbles > 7).astype(np.int8)


def _fingerprint(values: NDArray[np.int8], scale: NDArray[np.floating]) -> bytes:
    """All scales and some of the integers; that every one of them is right is for the gate to say."""
    some = values[:: max(1, len(values) // 64)]
    return hashlib.sha256(repr(values.shape).encode() + some.tobytes() + scale.astype(np.float32).tobytes()).digest()


def _start_empty(graph: "Model", heads: int, size: int) -> None:
    """Give every cache no slots to start with; without an initial value the plugin does not fuse it."""
    from openvino import opset13

    ids = graph.input("input_ids").get_node().output(0)
    batch = opset13.gather(opset13.shape_of(ids), opset13.constant(np.array([0])), opset13.constant(0))
    shape = opset13.concat([batch, opset13.constant(np.array([heads, 0, size]))], 0)
    empty = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()


def _save(graph: "Model", path: Path) -> list[Path]:
    import openvino

    openvino.save_model(graph, path, compress_to_fp16=False)
    _SHARED.pop(id(graph), None)
    return [path, path.with_suffix(".bin")]
