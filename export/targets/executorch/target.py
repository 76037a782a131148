"""ExecuTorch: one program with four methods on XNNPACK; `start` and `decoder` share the KV cache.

Where pictures stand in the text, a fifth method, `kept`, gives the cache's slots to keep.

Quantized linears compute with int8 activations, there is no other kernel: XNNPACK's partitioner silently drops the
scale of a weight-only linear. So the exact check compares with PyTorch emulating those activations (torchao), and a
bundle with quantized weights and float activations is refused. How weights are laid out: targets.executorch.weights.
"""

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.types import Number

from himix_edge.bundle import Bundle
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.export.graphs import (
    Embedding,
    RotaryTable,
    VisionInjector,
    decompose_gelu,
    factors_of,
    quiet,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import QuantizedEmbedding, QuantizedLinear, QuantizedModel, QuantizedTensor
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.executorch.passes import needed_passes_only
from himix_edge.export.targets.executorch.program_file import write_shared
from himix_edge.export.targets.executorch.weights import (
    FILE,
    PackedEmbedding,
    Pieces,
    SideBySide,
    cut_rows,
    int8_linear,
    pieces_of,
    read_back,
    tied_head,
)
from himix_edge.export.tolerance import FLOAT32, INT8, Tolerance, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.model.adapted import Factors, adapt
from himix_edge.model.decoder import DecoderLayer, RMSNorm
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine


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


class Kept(nn.Module):
    """slots (n,) int64, 0..n-1 -> key and value (L, G, n, h) of those slots of the cache."""

    def __init__(self, cache: Cache, layers: int):
        super().__init__()
        self.cache, self.count = cache, layers

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        layers = [self.cache.layer(i) for i in range(self.count)]
        for stored in (stored for layer in layers for stored in layer):
            # a method that only reads a cache would get a constant of its own
            torch.ops.llama.update_cache(stored[:, :1].clone(), stored, 0)
        key, value = (
            torch.cat([stored.index_select(1, slots) for stored in kind]) for kind in zip(*layers, strict=True)
        )
        return key.transpose(1, 2), value.transpose(1, 2)


class Norm(nn.Module):
    """RMSNorm in what XNNPACK computes: the mean is a linear with one row, whose bias is epsilon."""

    def __init__(self, norm: RMSNorm):
        super().__init__()
        (size,) = norm.weight.shape
        self.mean = nn.Linear(size, 1)
        nn.init.constant_(self.mean.weight, 1 / size)
        nn.init.constant_(self.mean.bias, norm.eps)
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(self.mean(x * x)) * self.weight


class Injector(VisionInjector):
    """The injection, with one norm in what XNNPACK computes and one rounding to int8."""

    def __init__(self, model: VisionLanguageModel, factors: Factors | None = None):
        super().__init__(model)
        self.factors = factors
        if self.norm is not None:
            self.norm = Norm(self.norm)
            self.linears = SideBySide([p for a in self.attentions for p in (a.k_proj_img, a.v_proj_img)])
        parts = [model] if self.norm is None else [p for n, p in model.named_children() if n in ("connector", "mixer")]
        for part in parts:
            swap_linears(part, lambda linear: int8_linear(linear, model.config))
        if self.norm is None and factors is not None:
            adapt(self.model, factors)

    def linears_of(self, normed: Tensor) -> list[Tensor]:
        made: list[Tensor] = self.linears(normed)
        if self.factors is None:
            return made
        return [out + self.factors.added(name, normed) for out, name in zip(made, self.factors.linears, strict=True)]


class AdaptedInjector(Injector):
    """The same, with an adapter's tensors behind the features."""

    def forward(self, inputs: list[Tensor], given: list[Tensor]) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]  # a graph's inputs are its own
        assert self.factors is not None
        self.factors.set(given)
        return super().forward(*inputs)


class Rotary(nn.Module):
    """Rotary embeddings (1, T, heads, h) in what XNNPACK computes: the halves change places by a matrix of -1, 0, 1."""

    def __init__(self, size: int):
        super().__init__()
        half = torch.eye(size).roll(size // 2, 0)
        half[: size // 2] *= -1
        self.turn = nn.Linear(size, size, bias=False)
        self.turn.weight = nn.Parameter(half)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return x * cos + self.turn(x) * sin


class Layer(nn.Module):
    """A decoder layer in operations that XNNPACK has, so that few leave it between two attentions.

    It is called `place` in its model; `factors` of an adapter are added to what its linears give.
    """

    def __init__(self, layer: DecoderLayer, config: ModelConfig, place: str, factors: Factors | None):
        super().__init__()
        self.place, self.factors = place, factors
        attn, mlp = layer.self_attn, layer.mlp
        self.before_attention, self.before_mlp = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = SideBySide([attn.q_proj, attn.k_proj, attn.v_proj])
        self.q_norm, self.k_norm = (
            Norm(norm) if isinstance(norm, RMSNorm) else nn.Identity() for norm in (attn.q_norm, attn.k_norm)
        )
        self.out = int8_if_quantized(attn.o_proj, config)
        self.down = int8_if_quantized(mlp.down_proj, config)
        self.pieces = len(self.down.parts) if isinstance(self.down, Pieces) else 1
        self.gate_up = SideBySide([*cut_rows(mlp.gate_proj, self.pieces), *cut_rows(mlp.up_proj, self.pieces)])

    def project(self, x: Tensor) -> list[Tensor]:
        """Normed states -> query, key and value (1, T, heads * h)."""
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        return [self.adapted(name, x, made) for name, made in zip(names, self.qkv(x), strict=True)]

    def mlp(self, x: Tensor) -> Tensor:
        """SwiGLU."""
        normed = self.before_mlp(x)
        made = self.gate_up(normed)
        gates, ups = (
            [self.adapted(name, normed, part, piece) for piece, part in enumerate(parts)]
            for name, parts in (("mlp.gate_proj", made[: self.pieces]), ("mlp.up_proj", made[self.pieces :]))
        )
        hidden = [nn.functional.silu(gate) * up for gate, up in zip(gates, ups, strict=True)]
        out = self.down(hidden if self.pieces > 1 else hidden[0])
        return self.adapted("mlp.down_proj", torch.cat(hidden, dim=-1) if self.pieces > 1 else hidden[0], out)

    def adapted(self, linear: str, x: Tensor, made: Tensor, piece: int = 0) -> Tensor:
        """What a linear, or a piece of one, makes of x, with what the adapter adds."""
        if self.factors is None:
            return made
        added = self.factors.added(f"{self.place}.{linear}", x)
        width = made.shape[-1]
        return made + (added if added.shape[-1] == width else added[..., piece * width : (piece + 1) * width])


class Decoder(nn.Module):
    """input_ids, position_ids (1, T), start_pos (1,), int64 -> logits (1, V) of the last token.

    `start_pos` slots of the cache are filled; position_ids are rotary positions. Where pictures stand in the text there
    is vision_embeds (1, T, d) too.
    """

    def __init__(self, model: VisionLanguageModel, cache: Cache, factors: Factors | None = None):
        super().__init__()
        self.factors = factors
        config, table = model.config, model.model.embed_tokens
        tied, quantized = config.decoder.tie_word_embeddings, isinstance(table, QuantizedEmbedding)
        capacity = cache.layer(0)[0].shape[1]
        self.cache, self.norm, self.table = cache, Norm(model.model.norm), RotaryTable(model.model, capacity)
        self.head_dim = config.decoder.head_dim
        self.rotary = Rotary(self.head_dim)
        self.layers: Any = nn.ModuleList(
            Layer(layer, config, f"model.layers.{i}", factors) for i, layer in enumerate(model.model.layers)
        )
        self.head = tied_head(table, config) if tied else int8_if_quantized(model.lm_head, config)
        pieces = pieces_of(table.quantized, table.name, config) if tied and quantized else 1
        self.embedding = Embedding(PackedEmbedding(table.quantized, pieces) if quantized else table)
        self.plain = config.layers_without_image

    def forward(
        self, input_ids: Tensor, start_pos: Tensor, position_ids: Tensor, vision_embeds: Tensor | None = None
    ) -> Tensor:
        halves = (table.transpose(1, 2) for table in self.table(position_ids))  # (1, T, 1, h/2)
        cos, sin = (torch.cat([half, half], dim=3) for half in halves)
        # HiMix's text counts from 0 behind the image, so a layer without the image has as many slots filled
        filled = {False: start_pos[0].item()} | ({True: position_ids[0, 0].item()} if self.plain else {})
        x = self.embedding(input_ids, vision_embeds)
        for i, layer in enumerate(self.layers):
            query, key, value = (
                made.unflatten(2, (-1, self.head_dim)) for made in layer.project(layer.before_attention(x))
            )
            query, key = layer.q_norm(query), layer.k_norm(key)
            stored, first = self.cache.layer(i), filled[i in self.plain]
            for cache, new in zip(stored, (self.rotary(key, cos, sin), value), strict=True):
                torch.ops.llama.update_cache(new, cache, first)
            attended = attention(self.rotary(query, cos, sin), *stored, first).flatten(2)
            x = x + layer.adapted("self_attn.o_proj", attended, layer.out(attended))
            x = x + layer.mlp(x)
        logits: Tensor = self.head(self.norm(x[:, -1]))
        return logits


class AdaptedDecoder(Decoder):
    """The same, with an adapter's tensors behind its own inputs."""

    def forward(self, inputs: list[Tensor], given: list[Tensor]) -> Tensor:  # type: ignore[override]  # a graph's inputs are its own
        assert self.factors is not None
        self.factors.set(given)
        return super().forward(*inputs)


def attention(query: Tensor, keys: Tensor, values: Tensor, filled: Number) -> Tensor:
    """The fused kernel: query (1, T, H, h) behind `filled` slots sees them and, causally, the new ones."""
    attended: Tensor = torch.ops.llama.custom_sdpa(query, keys, values, filled, None, 0, True)
    return attended


def int8_if_quantized(linear: nn.Module, config: ModelConfig) -> nn.Module:
    """A quantized linear on int8 activations; any other as it is."""
    return int8_linear(linear, config) if isinstance(linear, QuantizedLinear) else linear


class ExecuTorchTarget:
    """One model.pte, which serves all three roles."""

    name = "executorch"
    extra = "executorch"
    disk = (1.9, 1.1)
    activations: None = None
    # torchao's emulation rounds as XNNPACK does, but for the last bit
    tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32, emulated=Tolerance(0.02, True, 0.2))

    def tools(self) -> dict[str, str]:
        return versions("executorch", "torchao", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        if model.tensors and not options.int8_activations:
            raise InputError("ExecuTorch has no kernels for quantized weights with float activations; use --quant none")

        with quiet():  # it tells what it misses when it is first imported
            importlib.import_module("torchao.quantization")

        def program(folder: Path) -> list[Path]:
            if not (folder / FILE).exists():
                _write(model, options, folder / FILE)
            return [folder / FILE]

        return dict.fromkeys(("vision_encoder", "vision_injector", "decoder"), program)

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        """The reference with int8 activations emulated: asymmetric, a scale for each token."""
        if not model.tensors:
            return model.reference
        emulated: VisionLanguageModel = swap_linears(
            share_weights(model.reference), lambda linear: int8_linear(linear, model.reference.config)
        )
        decoder = emulated.config.decoder
        if isinstance(emulated.model.embed_tokens, QuantizedEmbedding) and decoder.tie_word_embeddings:
            emulated.config = replace(emulated.config, decoder=replace(decoder, tie_word_embeddings=False))
            emulated.lm_head = tied_head(emulated.model.embed_tokens, emulated.config)  # type: ignore[assignment]
        return emulated

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        return load_engine(bundle)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        return read_back(bundle)


TARGET = ExecuTorchTarget()


def _write(model: QuantizedModel, options: ExportOptions, path: Path) -> None:
    """Trace the four methods, lower them to XNNPACK, plan their memory together and write the program."""
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass

        with needed_passes_only():
            edge = to_edge_transform_and_lower(
                _trace(model, options.capacity, options.adapter_rank),
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
        # without a shared plan every method would have a cache of its own
        planning = MemoryPlanningPass(alloc_graph_input=False, share_mutable_buffers=True)
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("wb") as file:
            program.write_to_file(file)
        write_shared(fresh, path)
        fresh.unlink()


def _trace(model: QuantizedModel, capacity: int, rank: int) -> dict[str, ExportedProgram]:
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers llama::custom_sdpa

    config = model.reference.config
    vision, decoder = config.vision, config.decoder
    assert vision is not None
    own = share_weights(model.reference)
    tower = swap_linears(share_weights(model.reference).vision_tower, lambda linear: int8_linear(linear, config))
    heads, size, rows = decoder.num_key_value_heads, decoder.head_dim, config.num_vision_rows
    cache = Cache(decoder.num_hidden_layers, capacity, heads, size)
    image = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
    features = torch.zeros(1, vision.num_tokens, vision.feature_size)
    time = {1: torch.export.Dim("tokens", min=1, max=capacity - 1)}
    slots = {2: torch.export.Dim("slots", min=1, max=capacity - 1)}
    image_kv = (torch.zeros(rows, heads, 5, size), torch.zeros(rows, heads, 5, size))
    text = (torch.zeros(1, 3, dtype=torch.int64), torch.tensor([5]), torch.arange(3)[None])
    embeds = (torch.zeros(1, 3, decoder.hidden_size),) if config.images else ()
    injected, said = (factors_of(config, role, rank) for role in ("vision_injector", "decoder"))
    injector = (Injector if injected is None else AdaptedInjector)(share_weights(model.reference), injected)
    decoding = (Decoder if said is None else AdaptedDecoder)(own, cache, said)
    methods: dict[str, tuple[nn.Module, tuple[object, ...], tuple[object, ...] | None]] = {
        "vision_encoder": (decompose_gelu(tower), (image,), None),
        "vision_injector": (injector, *_behind((features,), None, injected, rank)),
        "start": (Start(cache, config.vision_rows), image_kv, (slots, slots)),
        "decoder": (
            decoding, *_behind((*text, *embeds), (time, None, time, *(time for _ in embeds)), said, rank)
        ),
    }  # fmt: skip
    if config.images is not None:
        filled = {0: torch.export.Dim("filled", min=1, max=capacity - 1)}
        methods["kept"] = (Kept(cache, decoder.num_hidden_layers), (torch.arange(5),), (filled,))
    return {
        name: torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic, strict=True)
        for name, (module, arguments, dynamic) in methods.items()
    }


def _behind(
    arguments: tuple[object, ...], dynamic: tuple[object, ...] | None, factors: Factors | None, most_rank: int
) -> tuple[tuple[object, ...], tuple[object, ...] | None]:
    """See `Factors.behind`; as it is given for a graph that takes none."""
    return (arguments, dynamic) if factors is None else factors.behind(arguments, dynamic, most_rank)
