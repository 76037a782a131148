"""ExecuTorch: one program with four methods on XNNPACK; `start` and `decoder` share the KV cache.

Quantised linears compute with int8 activations, there is no other kernel: XNNPACK's partitioner silently drops the
scale of a weight-only linear. So the exact check compares with PyTorch emulating those activations (torchao), and a
bundle with quantised weights and float activations is refused.
"""

import importlib.metadata
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.bundle import Bundle
from himix_edge.errors import BackendMissing, InputError
from himix_edge.export.graphs import (
    RotaryTable,
    VisionInjector,
    owned,
    quiet,
    replace_module,
    run_layers,
    spell_out_gelu,
    swap_linears,
)
from himix_edge.export.quantisation import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModel,
    QuantizedTensor,
    digest,
)
from himix_edge.export.targets import ExportOptions
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.engine import Engine, load_engine

FILE = "model.pte"


class Cache(nn.Module):
    """Keys and values (1, C, G, h) of every layer; methods that hold this module share them."""

    def __init__(self, layers: int, capacity: int, heads: int, size: int):
        super().__init__()
        for i, kind in itertools.product(range(layers), ("key", "value")):
            self.register_buffer(f"{kind}_{i}", torch.zeros(1, capacity, heads, size))

    def layer(self, i: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"key_{i}"), getattr(self, f"value_{i}")


class Start(nn.Module):
    """vision_key, vision_value (I, G, n, h) into the first n slots of every layer that they belong to -> zero (1,)."""

    def __init__(self, cache: Cache, rows: tuple[int | None, ...]):
        super().__init__()
        self.cache, self.rows = cache, rows

    def forward(self, vision_key: Tensor, vision_value: Tensor) -> Tensor:
        for i, row in enumerate(self.rows):
            if row is not None:
                for stored, new in zip(self.cache.layer(i), (vision_key, vision_value), strict=True):
                    torch.ops.llama.update_cache(new[row : row + 1].transpose(1, 2).contiguous(), stored, 0)
        return torch.zeros(1)


class PackedEmbedding(nn.Module):
    """A token embedding on 4-bit integers, two in a byte, or 8-bit ones."""

    values: Tensor
    scale: Tensor

    def __init__(self, quantised: QuantizedTensor):
        super().__init__()
        self.bits = quantised.bits
        values = quantised.values
        if self.bits == 4:
            offset = (values + 8).to(torch.uint8)
            values = offset[:, 0::2] | offset[:, 1::2] << 4
        self.register_buffer("values", values)
        self.register_buffer("scale", quantised.scale)

    def forward(self, ids: Tensor) -> Tensor:
        rows, scale = self.values[ids[0]].float(), self.scale[ids[0]]
        if self.bits == 4:  # in float: the runtime has no kernel that shifts bits
            high = torch.floor(rows / 16)
            rows = torch.stack([rows - 16 * high, high], dim=-1).flatten(1) - 8
        return (rows.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)[None]


class Decoder(nn.Module):
    """input_ids, position_ids (1, T), start_pos (1,), int64 -> logits (1, V) of the last token.

    `start_pos` slots of the cache are filled; position_ids are rotary positions.
    """

    def __init__(self, model: Any, cache: Cache):
        super().__init__()
        table, tied = model.model.embed_tokens, model.config.decoder.tie_word_embeddings
        capacity = cache.layer(0)[0].shape[1]
        self.cache, self.stack, self.rotary = cache, model.model, RotaryTable(model.model, capacity)
        quantised = isinstance(table, QuantizedEmbedding)
        self.head = model.lm_head if not tied else _linear(table.quantised, None) if quantised else _tied(table)
        self.embedding = PackedEmbedding(table.quantised) if quantised else table
        self.plain = [i for i, row in enumerate(model.config.vision_rows) if row is None]
        model.model.embed_tokens = None

    def forward(self, input_ids: Tensor, start_pos: Tensor, position_ids: Tensor) -> Tensor:
        cos, sin = self.rotary(position_ids)
        # HiMix's text counts from 0 behind the image, so a layer without the image has as many slots filled
        filled = {False: start_pos[0].item()} | ({True: position_ids[0, 0].item()} if self.plain else {})

        def attend(i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            stored, first = self.cache.layer(i), filled[i in self.plain]
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            for cache, new in zip(stored, (key, value), strict=True):
                torch.ops.llama.update_cache(new, cache, first)
            return attention(query, *stored, first).transpose(1, 2)

        x = run_layers(self.stack, self.embedding(input_ids), cos, sin, attend)
        logits: Tensor = self.head(self.stack.norm(x[:, -1]))
        return logits


def attention(query: Tensor, keys: Tensor, values: Tensor, filled: Any) -> Tensor:
    """The fused kernel: query (1, T, H, h) behind `filled` slots sees them and, causally, the new ones."""
    attended: Tensor = torch.ops.llama.custom_sdpa(query, keys, values, filled, None, 0, True)
    return attended


class ExecuTorchTarget:
    """One model.pte, which serves all three roles."""

    name = "executorch"
    extra = "executorch"
    in_all = True
    activations: None = None

    def tools(self) -> dict[str, str]:
        versions = {}
        for package in ("executorch", "torchao"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise BackendMissing(package, self.extra) from None
        return versions

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        if model.tensors and not options.int8_activations:
            raise InputError("ExecuTorch has no kernels for quantised weights with float activations; use --quant none")

        def program(folder: Path) -> list[Path]:
            if not (folder / FILE).exists():
                _write(model, options.capacity, folder / FILE)
            return [folder / FILE]

        return dict.fromkeys(("vision_encoder", "vision_injector", "decoder"), program)

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        """The reference with int8 activations emulated: asymmetric, a scale for each token."""
        if not model.tensors:
            return model.reference
        emulated: VisionLanguageModel = _swap(owned(model.reference))
        table = emulated.model.embed_tokens
        if isinstance(table, QuantizedEmbedding) and emulated.config.decoder.tie_word_embeddings:
            replace_module(emulated, "model.embed_tokens", EmulatedTable(table))
        return emulated

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        return load_engine(bundle)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        names = {sha256: name for name, sha256 in bundle.manifest.weights.items()}
        for i, tensor in enumerate(_read_program(bundle.role_path("decoder"))):
            yield names.get(digest(tensor), f"unknown {i}"), tensor


TARGET = ExecuTorchTarget()


class EmulatedTable(nn.Module):
    """A tied table: rows for the embedding, and a `weight` that quantises what it is multiplied with."""

    def __init__(self, table: QuantizedEmbedding):
        super().__init__()
        self.table, self.weight = table, _integers(table.quantised)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids)
        return rows


def _tied(table: nn.Module) -> nn.Linear:
    head = nn.Linear(1, 1, bias=False, device="meta")
    head.weight = table.weight  # type: ignore[assignment]
    return head


def _integers(quantised: QuantizedTensor) -> nn.Parameter:
    """A weight that is multiplied with dynamically quantised activations, and that XNNPACK takes as it is."""
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as intx

    kind, block = getattr(torch, f"int{quantised.bits}"), (1, quantised.group_size)
    dynamic = intx.IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN
    zero = torch.zeros_like(quantised.scale, dtype=torch.int8)
    stored = IntxUnpackedToInt8Tensor(quantised.values, quantised.scale, zero, kind, block, torch.float32, dynamic)
    return nn.Parameter(stored, requires_grad=False)


def _linear(quantised: QuantizedTensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(1, 1, device="meta")
    made.weight = _integers(quantised)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return made


def _swap(module: nn.Module) -> Any:
    def make(linear: QuantizedLinear) -> nn.Module:
        return _linear(linear.quantised, linear.bias)

    return swap_linears(module, make)


def _write(model: QuantizedModel, capacity: int, path: Path) -> None:
    """Trace the four methods, lower them to XNNPACK, plan their memory together and write the program."""
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass

        edge = to_edge_transform_and_lower(
            _trace(model, capacity),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        # without a shared plan every method would have a cache of its own
        planning = MemoryPlanningPass(alloc_graph_input=False, share_mutable_buffers=True)
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("wb") as file:
            program.write_to_file(file)
        fresh.replace(path)


def _trace(model: QuantizedModel, capacity: int) -> dict[str, Any]:
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers llama::custom_sdpa

    config = model.reference.config
    vision, decoder = config.vision, config.decoder
    assert vision is not None
    own = _swap(owned(model.reference))
    heads, size, rows = decoder.num_key_value_heads, decoder.head_dim, config.num_vision_rows
    cache = Cache(decoder.num_hidden_layers, capacity, heads, size)
    image = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
    features = torch.zeros(1, vision.num_tokens, vision.feature_size)
    time = {1: torch.export.Dim("tokens", min=1, max=capacity - 1)}
    slots = {2: torch.export.Dim("slots", min=1, max=capacity - 1)}
    image_kv = (torch.zeros(rows, heads, 5, size), torch.zeros(rows, heads, 5, size))
    text = (torch.zeros(1, 3, dtype=torch.int64), torch.tensor([5]), torch.arange(3)[None])
    methods: dict[str, tuple[nn.Module, tuple[Tensor, ...], Any]] = {
        "vision_encoder": (spell_out_gelu(own.vision_tower), (image,), None),
        "vision_injector": (VisionInjector(own), (features,), None),
        "start": (Start(cache, config.vision_rows), image_kv, (slots, slots)),
        "decoder": (Decoder(own, cache), text, (time, None, time)),
    }
    return {
        name: torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic, strict=True)
        for name, (module, arguments, dynamic) in methods.items()
    }


def _read_program(path: Path) -> Iterator[QuantizedTensor]:
    """Every quantised weight that XNNPACK gets, from the program's delegates and the buffers they name."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(path.read_bytes())
    data = {key: file.named_data.buffers[entry.buffer_index] for key, entry in file.named_data.pte_data.items()}
    for delegate in file.program.backend_delegate_data:
        graph = _xnnpack_graph(bytes(delegate.data))
        buffers = [data.get(constant["named_key"]) for constant in graph["constant_data"]]
        for value in graph["xvalues"]:
            union = value["xvalue_union"]
            tensor = union.get("tensor_value", {})
            if tensor.get("constant_buffer_idx") and union.get("quant_params_type", "").startswith("PerChannel"):
                yield _unpack(tensor, union["quant_params"], buffers)


def _xnnpack_graph(delegate: bytes) -> Any:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(delegate[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as scratch:
        schema, graph = Path(scratch) / "schema.fbs", Path(scratch) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        graph.write_bytes(delegate[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(scratch, str(schema), str(graph), ["--raw-binary"])
        return json.loads(graph.with_suffix(".json").read_text())


def _unpack(tensor: Any, parameters: Any, buffers: list[Any]) -> QuantizedTensor:
    rows, columns = tensor["dims"]
    raw = torch.frombuffer(bytearray(buffers[tensor["constant_buffer_idx"]]), dtype=torch.uint8)
    scales = bytearray(buffers[parameters["scale_buffer_idx"]])
    if tensor["datatype"] == "xnn_datatype_qbint4":
        packed = raw[: rows * columns // 2].reshape(rows, columns // 2)
        values = (torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int16) - 8).to(torch.int8)
        scale = torch.frombuffer(scales, dtype=torch.bfloat16)[: parameters["num_scales"]].float()
        return QuantizedTensor(values, scale.reshape(rows, -1), 4)
    values = raw[: rows * columns].view(torch.int8).reshape(rows, columns)
    scale = torch.frombuffer(scales, dtype=torch.float32)[: parameters["num_scales"]]
    return QuantizedTensor(values, scale.reshape(rows, 1), 8)
