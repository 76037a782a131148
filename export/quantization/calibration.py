"""Calibrated rounding of the decoder's 4-bit weights: GPTQ (Frantar et al., arXiv 2210.17323) with searched scales.

Layer by layer: what reaches each linear is measured on real conversations through the layers quantized so far, and
its weight is rounded column by column, each column's error made up for by those not yet rounded. One layer is in
memory at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.checkpoints.lazy import Weights
from himix_edge.config import DecoderConfig, ModelConfig
from himix_edge.export.quantization.tensors import QuantizedTensor, quantize_tensor, representable_scale
from himix_edge.model.decoder import DecoderLayer, RMSNorm, mixture_mask, rope_tables

DAMPING = 0.01  # of the Hessian's mean diagonal
SHRINK = torch.linspace(0.5, 1.05, 23)  # scales that are tried, as parts of the one that covers a group's largest
Loaded = TypeVar("Loaded", bound=nn.Module)
TABLE_DAMPING = 0.1  # a tied table is looked up as well as multiplied: closer to plain rounding


@dataclass(frozen=True)
class Passage:
    """Tokens (T,) of one conversation, and the image's keys and values by layer ((1, G, N, h) each), if it has one.

    Where pictures stand in the text an id may be SLOT: the row of `embeddings` (T, d) stands there.
    """

    ids: Tensor
    image: list[tuple[Tensor, Tensor] | None]
    position: int
    embeddings: Tensor | None = None

    def embedded(self, table: Tensor) -> Tensor:
        """What the first layer gets, (1, T, d), with the embeddings of tokens in `table` (V, d)."""
        found = F.embedding(self.ids.clamp(min=0), table)
        return (
            found[None] if self.embeddings is None else torch.where(self.ids[:, None] < 0, self.embeddings, found)[None]
        )


@dataclass
class Statistics:
    """X^T X of what reaches a linear, (columns, columns), and its rows' number."""

    total: Tensor
    count: int = 0

    def add(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        self.total.addmm_(rows.T, rows)
        self.count += rows.shape[0]


def calibrate(
    config: ModelConfig,
    weights: Weights,
    passages: list[Passage],
    bits: Callable[[str], int],
    group_size: int,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, QuantizedTensor]:
    """Quantize the decoder's linears and its table.

    Args:
        config, weights: the model, in float.
        passages: what to measure on.
        bits: module name -> its bits; only those with 4 are calibrated here.
        group_size: columns that share a scale.
        report: called with each layer's index.

    Returns:
        Parameter name -> integers and scales, of every 4-bit weight of the decoder.
    """
    decoder = config.decoder
    table = weights["model.embed_tokens.weight"].read().float()
    states = [passage.embedded(table) for passage in passages]
    done: dict[str, QuantizedTensor] = {}
    for i in range(decoder.num_hidden_layers):
        report(i)
        prefix = f"model.layers.{i}."
        layer = _load(DecoderLayer(decoder, None), weights, prefix)
        measured = _measure(layer, states, passages, i, decoder)
        for name, statistics in measured.items():
            if bits(prefix + name) == 4:
                module = layer.get_submodule(name)
                quantized = round_weight(module.weight, statistics, group_size, DAMPING)  # type: ignore[arg-type]
                done[f"{prefix}{name}.weight"] = quantized
                module.weight = nn.Parameter(quantized.dequantize(), requires_grad=False)
        states = [_run(layer, x, passage, i, decoder) for x, passage in zip(states, passages, strict=True)]
    name = "model.embed_tokens" if decoder.tie_word_embeddings else "lm_head"
    if bits(name) == 4:
        norm = _load(RMSNorm(decoder.hidden_size, decoder.rms_norm_eps), weights, "model.norm.")
        statistics = Statistics(torch.zeros(decoder.hidden_size, decoder.hidden_size))
        for x in states:
            statistics.add(norm(x))
        damping = TABLE_DAMPING if decoder.tie_word_embeddings else DAMPING
        head = table if decoder.tie_word_embeddings else weights["lm_head.weight"].read().float()
        done[f"{name}.weight"] = round_weight(head, statistics, group_size, damping)
    return done


def round_weight(weight: Tensor, statistics: Statistics, group_size: int, damping: float) -> QuantizedTensor:
    """GPTQ of one weight (rows, columns) to 4 bits; where plain rounding has the smaller error, that."""
    hessian = statistics.total / max(statistics.count, 1)
    plain = quantize_tensor(weight, 4, group_size)
    if not torch.isfinite(hessian).all() or float(hessian.diagonal().max()) == 0:
        return plain
    columns = hessian.shape[0]
    damped = hessian + torch.eye(columns) * (damping * hessian.diagonal().mean())
    try:
        inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # not in its stubs; float32 cannot tell inputs apart
        return plain
    values, scales = [], []
    remaining = weight.float().clone()
    for start in range(0, columns, group_size):
        end = start + group_size
        block = remaining[:, start:end].clone()
        scale = _search_scale(block, damped.diagonal()[start:end])
        errors = torch.zeros_like(block)
        rounded = torch.zeros_like(block)
        for c in range(group_size):
            column = block[:, c]
            rounded[:, c] = (column / scale).round().clamp(-8, 7)
            errors[:, c] = (column - rounded[:, c] * scale) / inverse[start + c, start + c]
            block[:, c + 1 :] -= errors[:, c : c + 1] * inverse[start + c, start + c + 1 : end]
        remaining[:, end:] -= errors @ inverse[start:end, end:]
        values.append(rounded.to(torch.int8))
        scales.append(scale[:, None])
    calibrated = QuantizedTensor(torch.cat(values, 1), torch.cat(scales, 1), 4)
    return min((calibrated, plain), key=lambda made: output_error(weight, made, damped))


def output_error(weight: Tensor, quantized: QuantizedTensor, hessian: Tensor) -> float:
    """tr(E H E^T) of E = weight - dequantized: the mean square error of what the linear puts out."""
    error = weight.float() - quantized.dequantize()
    return float(((error @ hessian) * error).sum())


def _search_scale(block: Tensor, importance: Tensor) -> Tensor:
    """The scale (rows,) of a group (rows, g) with the smallest error, weighed by how large its inputs are."""
    largest = block.abs().amax(dim=1) / 7
    best = torch.full_like(largest, float("inf"))
    chosen = representable_scale(largest)
    for shrink in SHRINK.tolist():
        scale = representable_scale(largest * shrink)
        error = block - (block / scale[:, None]).round().clamp(-8, 7) * scale[:, None]
        loss = (error.square() * importance).sum(dim=1)
        better = loss < best
        best, chosen = torch.where(better, loss, best), torch.where(better, scale, chosen)
    return chosen


def _load(module: Loaded, weights: Weights, prefix: str) -> Loaded:
    state = {name: weights[prefix + name].read().float() for name in module.state_dict()}
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _measure(
    layer: DecoderLayer, states: list[Tensor], passages: list[Passage], index: int, config: DecoderConfig
) -> dict[str, Statistics]:
    """Linear name -> statistics of its inputs, over all passages; linears with one input share them."""
    attn, mlp = layer.self_attn, layer.mlp
    shared = {
        "self_attn.q_proj": attn.q_proj, "self_attn.o_proj": attn.o_proj, "mlp.gate_proj": mlp.gate_proj,
        "mlp.down_proj": mlp.down_proj,
    }  # fmt: skip
    found = {name: Statistics(torch.zeros(m.weight.shape[1], m.weight.shape[1])) for name, m in shared.items()}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: found[name].add(inputs[0]))
        for name, module in shared.items()
    ]
    for x, passage in zip(states, passages, strict=True):
        _run(layer, x, passage, index, config)
    for hook in hooks:
        hook.remove()
    qkv, gate = found["self_attn.q_proj"], found["mlp.gate_proj"]
    return {**found, "self_attn.k_proj": qkv, "self_attn.v_proj": qkv, "mlp.up_proj": gate}


def _run(layer: DecoderLayer, x: Tensor, passage: Passage, index: int, config: DecoderConfig) -> Tensor:
    past = passage.image[index] if passage.image else None
    cos, sin = rope_tables(config, torch.arange(passage.position, passage.position + x.shape[1]))
    mask = mixture_mask(x.shape[1], past[0].shape[2] if past else 0, x.device)
    out: Tensor = layer(x, cos, sin, past, mask)[0]
    return out
