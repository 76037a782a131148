"""What is traced for the NPU: shapes are fixed, attention is written out, and no operator hides a cache."""

import math

import torch
from torch import Tensor, nn

from himix_edge.export.graphs import RotaryTable, run_layers
from himix_edge.export.quantization.tensors import QuantizedEmbedding, QuantizedLinear, QuantizedModule
from himix_edge.export.targets.onnx.matmul_nbits import MatMulNBits
from himix_edge.export.targets.onnx.target import GatherBlockQuantized
from himix_edge.model import VisionLanguageModel
from himix_edge.model.vit import PatchProjection, VisionAttention


class Linear(nn.Module):
    """A quantized linear as MatMulNBits, whose bias the NPU does not take: it is added behind."""

    bias: Tensor | None

    def __init__(self, linear: QuantizedModule):
        super().__init__()
        self.matmul = MatMulNBits(linear.name, linear.quantized, None, 0)
        self.register_buffer("bias", linear.bias if isinstance(linear, QuantizedLinear) else None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.matmul(x)
        return y if self.bias is None else y + self.bias


class PlainPatchProjection(nn.Module):
    """`PatchProjection` in tensors of four axes at most: the NPU takes no six."""

    def __init__(self, patches: PatchProjection):
        super().__init__()
        self.inner = patches

    def forward(self, x: Tensor) -> Tensor:
        grid, p = self.inner.grid, self.inner.patch
        planes = x[0, : grid * p, : grid * p].permute(2, 0, 1)  # (3, S, S)
        rows = planes.reshape(3 * grid, p, grid, p).permute(0, 2, 1, 3)
        patches = rows.reshape(3, grid * grid, p * p).permute(1, 0, 2)
        return self.inner.projection(patches.reshape(1, grid * grid, 3 * p * p))


class PlainVisionAttention(nn.Module):
    """The tower's attention, written out."""

    def __init__(self, attention: VisionAttention):
        super().__init__()
        self.inner, self.heads = attention, attention.heads

    def forward(self, x: Tensor) -> Tensor:
        a = self.inner
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (a.q_proj, a.k_proj, a.v_proj)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        return a.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class Inputs(nn.Module):
    """input_ids, position_ids (1, T) int64 -> embeds (1, T, d), cos and sin (1, 1, T, h/2).

    The table of a large vocabulary stays with the CPU, which looks up a few rows of it.
    """

    def __init__(self, model: VisionLanguageModel, capacity: int):
        super().__init__()
        table = model.model.embed_tokens
        self.rotary = RotaryTable(model.model, capacity)
        self.table: nn.Module = table
        if isinstance(table, QuantizedEmbedding):
            self.table = GatherBlockQuantized(MatMulNBits(table.name, table.quantized, None, 0))

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        return (self.table(input_ids), *self.rotary(position_ids))


class Decoder(nn.Module):
    """embeds (1, T, d); cos, sin (1, 1, T, h/2); mask, and text_mask where some layers have no image
    (1, 1, H/G * T, C+T), 0 or a large negative number; past K/V (1, G, C, h) -> logits (1, V) of the last token, and
    the new tokens' K/V (1, G, T, h).

    Fewer than T tokens stand at the end; what is in front of them, no mask lets anything see.
    """

    def __init__(self, model: VisionLanguageModel):
        super().__init__()
        config = model.config.decoder
        self.stack, self.config, self.plain = model.model, config, model.config.layers_without_image
        table = model.model.embed_tokens
        self.head: nn.Module
        if not config.tie_word_embeddings:
            self.head = model.get_submodule("lm_head")
        elif isinstance(table, QuantizedEmbedding):
            self.head = Linear(table)
        else:
            self.head = nn.Linear(1, 1, bias=False, device="meta")
            self.head.weight = table.weight

    def forward(
        self, embeds: Tensor, cos: Tensor, sin: Tensor, masks: list[Tensor], past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        new: list[Tensor] = []
        scale = 1 / math.sqrt(self.config.head_dim)

        def attend(i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            new.extend((key, value))
            keys, values = (torch.cat(pair, dim=2) for pair in ((past[2 * i], key), (past[2 * i + 1], value)))
            grouped = query.reshape(1, key.shape[1], -1, key.shape[3])  # a group's heads one behind the other
            scores = grouped @ keys.transpose(2, 3) * scale + masks[i in self.plain]
            return (scores.softmax(-1) @ values).reshape(query.shape)

        x = run_layers(self.stack, embeds, cos, sin, attend)
        logits: Tensor = self.head(self.stack.norm(x[:, -1:]))
        return (logits[:, 0], *new)
