"""ONNX for ONNX Runtime: GroupQueryAttention on a shared K/V buffer, MatMulNBits, GatherBlockQuantized.

The graphs are traced from the model's own modules by torch.export; only attention, quantized linears and the
embedding are swapped for ONNX Runtime's fused operators. GroupQueryAttention takes explicit positions, because
HiMix's text counts from 0 behind the N vision slots (it would otherwise rotate by the past's length).
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic_multi_out

from himix_edge.bundle import Bundle
from himix_edge.config import DecoderConfig, ModelConfig
from himix_edge.export.graphs import (
    Embedding,
    Swapped,
    VisionInjector,
    factors_of,
    injector_outputs,
    quiet,
    replace_module,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModel,
    QuantizedModule,
    QuantizedTensor,
)
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.onnx import int8_linear
from himix_edge.export.targets.onnx.int8_linear import Int8Linear
from himix_edge.export.targets.onnx.joined_linears import join, split_joined
from himix_edge.export.targets.onnx.matmul_nbits import PACKED, SCALE, MatMulNBits, contrib, unpack_blocks
from himix_edge.export.tolerance import FLOAT32, INT8, Tolerances
from himix_edge.low_rank import DOWN, UP
from himix_edge.model import VisionLanguageModel
from himix_edge.model.adapted import Adapted, Factors, TakesFactors, adapt
from himix_edge.model.decoder import Attention, DecoderStack, rope_tables
from himix_edge.model.vit import VisionAttention
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 23
EXTERNAL_DATA_BYTES = 1 << 26  # weights beyond this go to a file of their own, which is mapped and not parsed


class GatherBlockQuantized(nn.Module):
    """com.microsoft::GatherBlockQuantized on the buffers of the tied head (or its own)."""

    head: MatMulNBits

    def __init__(self, head: MatMulNBits):
        super().__init__()
        self.head = head

    def forward(self, ids: Tensor) -> Tensor:
        head = self.head
        rows, columns = head.quantized.values.shape
        attributes = {"bits": head.quantized.bits, "block_size": head.block, "gather_axis": 0, "quantize_axis": 1}
        inputs: list[Tensor | None] = [head.packed.reshape(rows, -1), ids, head.scale]
        return contrib("GatherBlockQuantized", inputs, attributes, head.scale.dtype, (*ids.shape, columns))


class FusedVisionAttention(nn.Module):
    """The tower's attention as com.microsoft::MultiHeadAttention."""

    def __init__(self, attention: VisionAttention):
        super().__init__()
        self.inner, self.heads = attention, attention.heads

    def forward(self, x: Tensor) -> Tensor:
        a = self.inner
        qkv = [a.q_proj(x), a.k_proj(x), a.v_proj(x)]
        return a.out_proj(contrib("MultiHeadAttention", qkv, {"num_heads": self.heads}, x.dtype, x.shape))


class FusedStack(nn.Module):
    """The decoder's layers around com.microsoft::GroupQueryAttention."""

    layers: Any
    cos: Tensor
    sin: Tensor

    def __init__(
        self, stack: DecoderStack, rows: int, without_image: Collection[int] = (), factors: Factors | None = None
    ):
        """`rows` of rotary tables; layers in `without_image` have text alone in their cache; `factors` of an adapter
        are added to what all linears give."""
        super().__init__()
        self.layers, self.norm, self.config = stack.layers, stack.norm, stack.config
        attentions = [layer.self_attn for layer in self.layers]
        joined = [join([attn.q_proj, attn.k_proj, attn.v_proj]) for attn in attentions]
        self.joined = nn.ModuleDict({str(i): matmul for i, matmul in enumerate(joined) if matmul is not None})
        if factors is not None:
            adapt(stack, factors, within="model.")
            for i, matmul in self.joined.items():
                names = [f"model.layers.{i}.self_attn.{kind}_proj" for kind in "qkv"]
                self.joined[i] = Adapted(matmul, names, factors)
        self.without_image = frozenset(without_image)
        cos, sin = rope_tables(stack.config, torch.arange(rows))
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(
        self, x: Tensor, position_ids: Tensor, seqlens_k: Tensor, total: Tensor, past: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (1, T, d) -> states before the final norm, and present K/V (key, value alternating by layer)."""
        present: list[Tensor] = []
        # HiMix's text counts from 0 behind the image, so a text-only cache ends at the last position
        text_last, text_total = position_ids[:, -1].int(), (position_ids[0, -1] + 1).int()
        for i, layer in enumerate(self.layers):
            attn, normed = layer.self_attn, layer.input_layernorm(x)
            if str(i) in self.joined:
                qkv = [self.joined[str(i)](normed), None, None]
            else:
                qkv = [attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)]
            if self.config.qk_norm:
                qkv = normed_heads(self.config, attn, qkv)
            cache = [past[2 * i], past[2 * i + 1]] if past else [None, None]
            length = [text_last, text_total] if i in self.without_image else [seqlens_k, total]
            attended, key, value = group_query_attention(
                self.config, [*qkv, *cache, *length, self.cos, self.sin, position_ids]
            )
            present += [key, value]
            x = x + attn.o_proj(attended)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x, present


class VanillaInjector(nn.Module):
    """Vanilla: vision_features (1, N, d_v) through connector and decoder -> vision_key, vision_value (L, G, N, h)."""

    positions: Tensor

    def __init__(self, connector: nn.Module, stack: FusedStack, vision_tokens: int):
        super().__init__()
        self.connector, self.stack = connector, stack
        self.register_buffer("positions", torch.arange(vision_tokens)[None])
        self.register_buffer("last", torch.tensor([vision_tokens - 1], dtype=torch.int32))
        self.register_buffer("total", torch.tensor(vision_tokens, dtype=torch.int32))

    def forward(self, vision_features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.connector(vision_features)
        _, present = self.stack(x, self.positions, self.last, self.total, None)
        return torch.cat(present[::2]), torch.cat(present[1::2])


class Injector(VisionInjector):
    """The injection; where the layers share a norm, all keys are one matmul, and all values."""

    def __init__(self, model: VisionLanguageModel, options: ExportOptions, factors: Factors | None = None):
        # ONNX Runtime cannot open a graph that uses the weights of an Int8Linear twice, on a CPU whose sums overflow
        swap = _swap if model.config.injection.sharing == "levels" else _swap_int8
        super().__init__(swap(model, options))
        shared = [] if self.norm is None else self.attentions
        self.keys: nn.Module | None
        self.values: nn.Module | None
        self.keys, self.values = (join([getattr(a, name) for a in shared]) for name in ("k_proj_img", "v_proj_img"))
        if factors is None:
            return
        adapt(self.model, factors)
        if self.keys is not None and self.values is not None:
            names = list(factors.linears)  # key and value of each layer in turn
            self.keys, self.values = (
                Adapted(made, names[i::2], factors) for i, made in enumerate((self.keys, self.values))
            )

    def projections(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            return super().projections(normed)
        shape = (len(self.attentions), self.attentions[0].kv_heads, -1)
        key, value = (
            made(normed).flatten(0, 1).unflatten(1, shape).permute(1, 2, 0, 3) for made in (self.keys, self.values)
        )
        return key, value


class Decoder(nn.Module):
    """input_ids, position_ids (1, T) int64; seqlens_k (1,) and total_sequence_length () int32; K/V (1, G, C, h);
    where pictures stand in the text vision_embeds (1, T, d) -> logits (1, V) of the last position, present K/V in the
    same buffers."""

    def __init__(self, embedding: nn.Module, stack: FusedStack, head: nn.Module):
        super().__init__()
        self.embedding, self.stack, self.head = Embedding(embedding), stack, head

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        past: list[Tensor],
        vision_embeds: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        x = self.embedding(input_ids, vision_embeds)
        x, present = self.stack(x, position_ids, seqlens_k, total_sequence_length, past)
        return (self.head(self.stack.norm(x[:, -1])), *present)


def normed_heads(config: DecoderConfig, attention: Attention, qkv: list[Tensor | None]) -> list[Tensor | None]:
    """Query, key and value (1, T, heads * h), the first two normed per head: the operator rotates what it gets.

    `qkv` are the three, or all in the first.
    """
    query, key, value = qkv
    assert query is not None
    if key is None:
        query, key, value = query.split([config.q_size, config.kv_size, config.kv_size], dim=-1)
    query, key = (
        norm(made.unflatten(-1, (-1, config.head_dim))).flatten(-2)
        for norm, made in ((attention.q_norm, query), (attention.k_norm, key))
    )
    return [query, key, value]


def group_query_attention(config: DecoderConfig, inputs: list[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Emit the fused operator: attended (1, T, H*h) and present key and value (1, G, C, h).

    The first input is the query, or without the next two query, key and value side by side.
    """
    query, past_key = inputs[0], inputs[3]
    assert query is not None
    states = (*query.shape[:2], config.num_attention_heads * config.head_dim)
    cache = past_key.shape if past_key is not None else (1, config.num_key_value_heads, query.shape[1], config.head_dim)
    attributes = {
        "num_heads": config.num_attention_heads, "kv_num_heads": config.num_key_value_heads,
        "do_rotary": 1, "rotary_interleaved": 0, "scale": config.head_dim**-0.5,
    }  # fmt: skip
    attended, present_key, present_value = symbolic_multi_out(
        "com.microsoft::GroupQueryAttention", inputs, attributes,
        dtypes=[query.dtype] * 3, shapes=[states, cache, cache], version=1,
    )  # fmt: skip
    return attended, present_key, present_value


class OnnxTarget:
    """Three .onnx files for ONNX Runtime's CPU provider."""

    name = "onnx"
    extra = "onnx"
    disk = (2.05, 2.05)  # the exact check has copies of the graphs
    activations: None = None
    tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32)

    def tools(self) -> dict[str, str]:
        return versions("onnx", "onnxscript", "onnxruntime", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        return {
            "vision_encoder": lambda folder: self._encoder(model, options, folder),
            "vision_injector": lambda folder: self._injector(model, options, folder),
            "decoder": lambda folder: self._decoder(model, options, folder),
        }

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The same files with MatMulNBits' accuracy_level 0 and Int8Linear's other body: no weight is touched."""
        import onnx
        import onnx_ir

        paths = {}
        for role, records in bundle.manifest.roles.items():
            files = [bundle.folder / record.path for record in records]
            graph = onnx.load(files[0], load_external_data=False)
            for node in graph.graph.node:
                for attribute in node.attribute:
                    if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                        attribute.i = 0
            for function in graph.functions:
                if function.name == int8_linear.NAME:
                    function.CopyFrom(onnx_ir.to_proto(int8_linear.function(OPSET, int8_activations=False)))
            for extra in files[1:]:
                os.link(extra, scratch / extra.name)  # ONNX Runtime refuses data behind a link that leaves the folder
            paths[role] = scratch / files[0].name
            onnx.save(graph, paths[role])
        return load_engine(bundle, role_files=paths)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        for role in bundle.manifest.roles:
            yield from weights_in(bundle.role_path(role), bundle.config)

    def _encoder(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        vision = model.reference.config.vision
        assert vision is not None
        tower = _swap_int8(share_weights(model.reference).vision_tower, options)
        for name, child in list(tower.named_modules()):
            if isinstance(child, VisionAttention):
                replace_module(tower, name, FusedVisionAttention(child))
        pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
        return _export(tower, (pixels,), ["image"], ["vision_features"], None, folder / "vision_encoder.onnx")

    def _injector(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        config = model.reference.config
        assert config.vision is not None
        own, factors = share_weights(model.reference), factors_of(config, "vision_injector", options.adapter_rank)
        if config.images is not None:
            injector: nn.Module = _swap_int8(own.get_submodule("connector"), options)
        elif config.architecture == "himix":
            injector = Injector(own, options, factors)
        else:
            _swap_int8(own, options)
            stack = FusedStack(own.model, options.capacity, (), factors)
            injector = VanillaInjector(own.get_submodule("connector"), stack, config.tile_tokens)
        features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
        names, path = injector_outputs(config), folder / "vision_injector.onnx"
        return _export(injector, (features,), ["vision_features"], names, None, path, factors, options.adapter_rank)

    def _decoder(self, model: QuantizedModel, options: ExportOptions, folder: Path) -> list[Path]:
        config = model.reference.config.decoder
        own, factors = (
            share_weights(model.reference),
            factors_of(model.reference.config, "decoder", options.adapter_rank),
        )
        embedding, head = _embedding_and_head(own, options)
        plain = model.reference.config.layers_without_image
        stack = FusedStack(_swap(own.model, options), options.capacity, plain, factors)
        decoder = Decoder(embedding, stack, head)
        cache = (1, config.num_key_value_heads, options.capacity, config.head_dim)
        layers = range(config.num_hidden_layers)
        past = [f"past_key_values.{i}.{kind}" for i in layers for kind in ("key", "value")]
        present = [name.replace("past_key_values", "present") for name in past]
        # every input a tensor of its own: torch.export takes one tensor passed twice for one input
        tokens, positions = torch.zeros(1, 3, dtype=torch.int64), torch.arange(3)[None]
        last, total = torch.tensor([2], dtype=torch.int32), torch.tensor(3, dtype=torch.int32)
        time = {1: torch.export.Dim("sequence_length")}
        embeds = [torch.zeros(1, 3, config.hidden_size)] if model.reference.config.images else []
        arguments = (tokens, positions, last, total, [torch.zeros(cache) for _ in past], *embeds)
        dynamic = (time, time, None, None, [None] * len(past), *(time for _ in embeds))
        inputs = ["input_ids", "position_ids", "seqlens_k", "total_sequence_length", *past]
        inputs += ["vision_embeds" for _ in embeds]
        outputs, path = ["logits", *present], folder / "decoder.onnx"
        return _export(decoder, arguments, inputs, outputs, dynamic, path, factors, options.adapter_rank)


TARGET = OnnxTarget()


def weights_in(path: Path, config: ModelConfig) -> Iterator[tuple[str, QuantizedTensor]]:
    """Parameter names with integers and scales of one graph."""
    import onnx

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == int8_linear.NAME:
            packed, scale = (onnx.numpy_helper.to_array(stored[name]) for name in node.input[1:3])
            yield from split_joined(node.input[1].removesuffix(PACKED), int8_linear.unpack(packed, scale))
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        looked_up = node.op_type == "GatherBlockQuantized"  # in a flat view of the integers
        packed = made_by[node.input[0]].input[0] if looked_up else node.input[1]
        integers = onnx.numpy_helper.to_array(stored[packed])
        scale = node.input[2]
        if scale not in stored:  # in float16, and cast; equal scales are one tensor
            scale = made_by[scale].input[0]
        scales = onnx.numpy_helper.to_array(stored[scale])
        bits = next(a.i for a in node.attribute if a.name == "bits")
        columns = next((a.i for a in node.attribute if a.name == "K"), config.decoder.hidden_size)
        yield from split_joined(packed.removesuffix(PACKED), unpack_blocks(integers, scales, columns, bits))


def _swap(module: Swapped, options: ExportOptions) -> Swapped:
    return swap_linears(module, lambda linear: _matmul(linear, options))


def _swap_int8(module: Swapped, options: ExportOptions) -> Swapped:
    """For a graph that always sees many rows; see `targets.onnx.int8_linear`."""

    def matmul(linear: QuantizedLinear) -> MatMulNBits | Int8Linear:
        if options.int8_activations and Int8Linear.fits(linear.quantized):
            return Int8Linear(linear.name, linear.quantized, linear.bias)
        return _matmul(linear, options)

    return swap_linears(module, matmul)


def _matmul(linear: QuantizedModule, options: ExportOptions) -> MatMulNBits:
    bias = linear.bias if isinstance(linear, QuantizedLinear) else None
    return MatMulNBits(linear.name, linear.quantized, bias, 4 if options.int8_activations else 0)


def _embedding_and_head(own: VisionLanguageModel, options: ExportOptions) -> tuple[nn.Module, nn.Module]:
    """Token embedding and head; a tied pair shares one stored tensor."""
    config, table = own.config.decoder, own.model.embed_tokens
    if not isinstance(table, QuantizedEmbedding):
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device="meta")
        head.weight = table.weight if config.tie_word_embeddings else own.lm_head.weight
        return table, head
    stored = _matmul(table, options)
    if config.tie_word_embeddings:
        return GatherBlockQuantized(stored), stored
    untied = own.get_submodule("lm_head")
    assert isinstance(untied, QuantizedModule)
    return GatherBlockQuantized(stored), _matmul(untied, options)


def _export(
    module: nn.Module,
    arguments: tuple[object, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: tuple[object, ...] | None,
    path: Path,
    factors: Factors | None = None,
    most_rank: int = 0,
) -> list[Path]:
    """Trace and write one graph, which takes `factors` besides, of any rank up to `most_rank`; returns its files."""
    if factors is not None:
        module, inputs = TakesFactors(module, factors), [*inputs, *factors.names]
        arguments, dynamic = factors.behind(arguments, dynamic, most_rank)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), arguments, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs,
            dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
        assert program is not None
        if factors is not None:
            _default_to_zeros(program.model.graph, factors)
        _halve_scales(program.model.graph)
        name_weights(program.model.graph, module)
        if any(node.op_type == int8_linear.NAME for node in program.model.graph):
            function = int8_linear.function(OPSET, int8_activations=True)
            program.model.functions[function.identifier()] = function
        stored = (value.const_value for value in program.model.graph.initializers.values())
        size = sum(tensor.nbytes for tensor in stored if tensor is not None)
        program.save(str(path), external_data=size > EXTERNAL_DATA_BYTES)
    data = path.with_name(path.name + ".data")
    return [path, data] if data.exists() else [path]


def _default_to_zeros(graph: "ir.Graph", factors: Factors) -> None:
    """Let an adapter's inputs be left out: zeros of rank 1 stand for them, which change nothing."""
    import onnx_ir as ir

    ports = {port.name: port for port in graph.inputs}
    for name, (columns, rows) in factors.linears.items():
        for kind, shape in ((DOWN, (columns, 1)), (UP, (1, rows))):
            port = ports[name + kind]
            port.const_value = ir.tensor(torch.zeros(shape), name=port.name)
            graph.register_initializer(port)


def _halve_scales(graph: "ir.Graph") -> None:
    """Store the scales of quantized weights in float16, which holds them exactly; ONNX Runtime casts them at load.

    It is done behind the exporter, which would fold the cast away.
    """
    import onnx_ir as ir

    operators = [node for node in graph if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    scales = {scale.name: scale for node in operators if (scale := node.inputs[2]) is not None}
    first = graph[0]
    for name, scale in scales.items():
        assert name is not None
        assert scale.const_value is not None
        half = ir.Value(
            name=name, shape=scale.shape, type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.tensor(scale.const_value.numpy().astype("float16"), name=name),
        )  # fmt: skip
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}_float32"
        cast.outputs[0].shape, cast.outputs[0].type = scale.shape, scale.type
        ir.convenience.replace_all_uses_with(scale, cast.outputs[0])
        graph.insert_before(first, cast)
        del graph.initializers[name]
        graph.register_initializer(half)


def name_weights(graph: "ir.Graph", module: nn.Module) -> None:
    """Call integers and scales by their parameter instead of by their place in the traced module."""
    for place, child in module.named_modules(remove_duplicate=False):  # a tied head has two places
        if isinstance(child, MatMulNBits | Int8Linear):
            for kind in (PACKED, SCALE):
                if place + kind in graph.initializers:
                    value = graph.initializers.pop(place + kind)
                    value.name = child.name + kind
                    graph.register_initializer(value)
