"""What is traced for LiteRT: the decoder around a cache that its caller owns, and weights as they are stored."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.export.graphs import Embedding, RotaryTable, Swapped, VisionInjector, swap_linears
from himix_edge.export.quantization.tensors import QuantizedLinear, QuantizedModule, QuantizedTensor
from himix_edge.export.targets.litert.graph import Shape, Value
from himix_edge.export.targets.litert.lowering import Lowering
from himix_edge.export.targets.litert.operators import HIDDEN, OPERATORS, fully_connected
from himix_edge.export.targets.litert.weights import store_weight
from himix_edge.export.targets.onnx.joined_linears import JOINT
from himix_edge.model import VisionLanguageModel
from himix_edge.model.decoder import DecoderLayer, rotate

JOINED_VERSION = {8: 9, 4: 13}  # of FULLY_CONNECTED, by the bits of its weights


class StoredLinear(nn.Module):
    """A linear layer on integers; XNNPACK rounds its input to int8, with a scale for each token."""

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, name: str, quantized: QuantizedTensor, bias: Tensor | None):
        super().__init__()
        self.name, self.bits = name, quantized.bits
        self.register_buffer("values", quantized.values)
        self.register_buffer("scale", quantized.scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return stored_linear(x, self.values, self.scale, self.bias, self.bits, self.name)


class StoredEmbedding(nn.Module):
    """A token embedding on integers."""

    values: Tensor
    scale: Tensor

    def __init__(self, table: QuantizedModule):
        super().__init__()
        self.name, self.bits = table.name, table.bits
        self.register_buffer("values", table.values)
        self.register_buffer("scale", table.scale)

    def forward(self, ids: Tensor) -> Tensor:
        return stored_embedding(ids, self.values, self.scale, self.bits, self.name)


@torch.library.custom_op("himix_edge::stored_linear", mutates_args=())
def stored_linear(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None, bits: int, name: str) -> Tensor:
    """x (..., columns) by the weight of these integers."""
    return torch.nn.functional.linear(x, QuantizedTensor(values, scale, bits).dequantize(), bias)


@stored_linear.register_fake
def _(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None, bits: int, name: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(values)))


@torch.library.custom_op("himix_edge::stored_embedding", mutates_args=())
def stored_embedding(ids: Tensor, values: Tensor, scale: Tensor, bits: int, name: str) -> Tensor:
    """Rows of the table of these integers: ids (1, T) -> (1, T, columns)."""
    return QuantizedTensor(values[ids[0]], scale[ids[0]], bits).dequantize()[None]


@stored_embedding.register_fake
def _(ids: Tensor, values: Tensor, scale: Tensor, bits: int, name: str) -> Tensor:
    return scale.new_empty((*ids.shape, values.shape[1]))


@torch.library.custom_op("himix_edge::update_slots", mutates_args=())
def update_slots(cache: Tensor, new: Tensor, first: Tensor) -> Tensor:
    """A cache (1, G, C, h) with new (1, G, T, h) from the place `first` (4,) on."""
    place, made = int(first[2]), cache.clone()
    made[:, :, place : place + new.shape[2]] = new
    return made


@update_slots.register_fake
def _(cache: Tensor, new: Tensor, first: Tensor) -> Tensor:
    return torch.empty_like(cache)


def _lower_update(to: Lowering, shape: Shape, cache: Value, new: Value, first: Value) -> Value:
    given = [to.ordered(cache), to.ordered(new), to.ordered(first)]
    return to.graph.operator("DYNAMIC_UPDATE_SLICE", given, shape)


def _lower_linear(
    to: Lowering, shape: Shape, x: Value, values: Tensor, scale: Tensor, bias: Tensor | None, bits: int, name: str
) -> Value:
    weight = store_weight(to.graph, QuantizedTensor(values, scale, bits), name)
    return fully_connected(to, x, weight, bias, JOINED_VERSION[bits])


def _lower_embedding(
    to: Lowering, shape: Shape, ids: Value, values: Tensor, scale: Tensor, bits: int, name: str
) -> Value:
    table = store_weight(to.graph, QuantizedTensor(values, scale, bits), name)
    rows = to.graph.operator("EMBEDDING_LOOKUP", [to.reshape(ids, (shape[1],)), table], shape[1:], version=4)
    return to.reshape(rows, shape)


HANDLERS = {
    **OPERATORS,
    torch.ops.himix_edge.stored_linear.default: _lower_linear,
    torch.ops.himix_edge.stored_embedding.default: _lower_embedding,
    torch.ops.himix_edge.update_slots.default: _lower_update,
}


class SideBySide(nn.Module):
    """Linears that share an input, in one matrix if they are all of one kind: the input is rounded once."""

    def __init__(self, linears: Sequence[nn.Module]):
        super().__init__()
        own = [linear for linear in linears if isinstance(linear, QuantizedLinear)]
        kinds = {(linear.bits, linear.scale.shape[1], linear.bias is None) for linear in own}
        self.sizes = [_rows(linear) for linear in linears]
        self.linears: Any = nn.ModuleList()
        if len(own) == len(linears) and len(kinds) == 1:
            name = own[0].name if len(own) == 1 else JOINT.join(f"{one.name}:{len(one.values)}" for one in own)
            values, scale = (torch.cat([getattr(one, kind) for one in own]) for kind in ("values", "scale"))
            biases = [one.bias for one in own if one.bias is not None]
            whole = QuantizedTensor(values, scale, own[0].bits)
            self.linears.append(StoredLinear(name, whole, torch.cat(biases) if biases else None))
        else:
            self.linears.extend([stored(linear) for linear in linears])

    def forward(self, x: Tensor) -> list[Tensor]:
        if len(self.linears) < len(self.sizes):
            return list(self.linears[0](x).split(self.sizes, dim=-1))
        return [linear(x) for linear in self.linears]


def _rows(linear: nn.Module) -> int:
    return len(linear.values) if isinstance(linear, QuantizedLinear) else len(linear.get_parameter("weight"))


def stored(linear: nn.Module) -> nn.Module:
    """A linear on its integers, if it has any."""
    if isinstance(linear, QuantizedLinear):
        return StoredLinear(linear.name, linear.quantized, linear.bias)
    return linear


def swap(module: Swapped) -> Swapped:
    """A module whose quantized linears are stored ones, changed in place."""
    return swap_linears(module, stored)


class Injector(VisionInjector):
    """The injection, in which layers with one norm share the rounding to int8."""

    def __init__(self, model: VisionLanguageModel):
        super().__init__(model)
        shared = [] if self.norm is None else self.attentions
        self.linears = SideBySide([p for a in shared for p in (a.k_proj_img, a.v_proj_img)]) if shared else None
        swap(self.model)  # which may be a copy

    def linears_of(self, normed: Tensor) -> list[Tensor]:
        assert self.linears is not None
        made: list[Tensor] = self.linears(normed)
        return made


class Layer(nn.Module):
    """A decoder layer, whose keys and queries are normed and rotated together."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp
        self.heads, self.kv_heads, self.head_dim = attn.heads, attn.kv_heads, attn.head_dim
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = SideBySide([attn.q_proj, attn.k_proj, attn.v_proj])
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.gate_up = SideBySide([mlp.gate_proj, mlp.up_proj])
        self.out, self.down = stored(attn.o_proj), stored(mlp.down_proj)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (1, T, d) -> query (1, H, T, h), key and value (1, G, T, h), at their places."""
        query, key, value = (
            made.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for made in self.qkv(self.before_attention(x))
        )
        query, key = self.q_norm(query), self.k_norm(key)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def feed_forward(self, x: Tensor) -> Tensor:
        """SwiGLU."""
        gate, up = self.gate_up(self.before_mlp(x))
        made: Tensor = self.down(nn.functional.silu(gate) * up)
        return made


class Decoder(nn.Module):
    """One step over T tokens behind a cache, which the caller owns.

    Takes input_ids (1, T), filled, position and last (1,), all int32; where pictures stand in the text vision_embeds
    (1, T, d); then of every layer key and value (1, G, C, h). Gives logits (1, V) of token `last` and the caches with
    the new keys and values behind the first `filled` slots, which are written last: the memory may be the same.
    """

    def __init__(self, model: VisionLanguageModel, capacity: int):
        super().__init__()
        config, table = model.config, model.model.embed_tokens
        quantized = isinstance(table, QuantizedModule)
        self.rotary, self.norm = RotaryTable(model.model, capacity), model.model.norm
        self.layers: Any = nn.ModuleList(Layer(layer) for layer in model.model.layers)
        self.embedding = Embedding(StoredEmbedding(table) if quantized else table)
        if not config.decoder.tie_word_embeddings:
            self.head = stored(model.lm_head)
        elif quantized:
            self.head = StoredLinear(table.name, table.quantized, None)
        else:
            self.head = nn.Linear(1, 1, bias=False, device="meta")
            self.head.weight = table.weight
        self.plain = config.layers_without_image
        self.embeds = config.images is not None

    def forward(
        self, input_ids: Tensor, filled: Tensor, position: Tensor, last: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        embeds, cache = (rest[0], rest[1:]) if self.embeds else (None, rest)
        tokens, slots = input_ids.shape[1], cache[0].shape[2]
        cos, sin = self.rotary((position + torch.arange(tokens, dtype=torch.int32))[None])
        # HiMix's text counts from 0 behind the image, so a layer without the image has `position` slots filled
        counts = {False: filled} | ({True: position} if self.plain else {})
        seen = {kind: slot_scores(slots, count) for kind, count in counts.items()}
        causal = torch.zeros(tokens, tokens).masked_fill(~torch.ones(tokens, tokens, dtype=torch.bool).tril(), HIDDEN)
        x = self.embedding(input_ids, embeds)
        made: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            query, key, value = layer.project(x, cos, sin)
            made += [key, value]
            past = cache[2 * i], cache[2 * i + 1]
            attended = attention(query, past, (key, value), seen[i in self.plain], causal)
            x = x + layer.out(attended.transpose(1, 2).flatten(2))
            x = x + layer.feed_forward(x)
        x = x[:, -1] if last is None else x.index_select(1, last)[:, 0]
        logits = self.head(self.norm(x))
        none = torch.zeros(1, dtype=torch.int32)
        firsts = {kind: torch.cat([none, none, count, none]) for kind, count in counts.items()}
        plain = (i // 2 in self.plain for i in range(len(made)))
        present = (update_slots(old, new, firsts[kind]) for old, new, kind in zip(cache, made, plain, strict=True))
        return (logits, *present)


def slot_scores(slots: int, filled: Tensor) -> Tensor:
    """(C,), what is added to the scores of a cache's slots: the new tokens see the `filled` (1,) ones."""
    return torch.where(torch.arange(slots, dtype=torch.int32) < filled, 0.0, HIDDEN)


def attention(
    query: Tensor, past: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], seen: Tensor, causal: Tensor
) -> Tensor:
    """Query (1, H, T, h) on past (1, G, C, h) and new (1, G, T, h) keys and values -> (1, H, T, h).

    `seen` (C,) and `causal` (T, T) are added to the scores. No key is copied for the heads that share it, nor moved
    beside others.
    """
    heads, tokens, size = query.shape[1:]
    groups, slots = past[0].shape[1:3]
    rows = heads // groups * tokens
    query = (query * size**-0.5).reshape(1, groups, rows, size)
    behind = query @ past[0].transpose(-1, -2) + seen
    among = query @ new[0].transpose(-1, -2) + causal.repeat(heads // groups, 1)
    weights = torch.cat([behind, among], dim=-1).softmax(-1)
    attended = weights[..., :slots] @ past[1] + weights[..., slots:] @ new[1]
    return attended.reshape(1, heads, tokens, size)
