"""A decoder whose cache is a state of fixed size, as Apple's runtimes have it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.export.graphs import Embedding, RotaryTable, run_layers, slot_mask
from himix_edge.model import VisionLanguageModel


class StatefulDecoder(nn.Module):
    """input_ids (1, T), start, position, last (1,), all int32, and where pictures stand in the text vision_embeds
    (1, T, d) -> logits (1, V) of token `last`.

    `start` slots of the cache are filled, the first token has rotary position `position`. State: key_cache and
    value_cache (L, G, C, h).
    """

    key_cache: Tensor
    value_cache: Tensor

    def __init__(self, model: VisionLanguageModel, capacity: int, weight: Callable[[nn.Module], nn.Module]):
        """`weight` makes of the table, and of a head of its own, a module that gives the matrix."""
        super().__init__()
        config = model.config.decoder
        self.capacity, self.stack = capacity, model.model
        self.rotary = RotaryTable(model.model, capacity)
        self.table = weight(model.model.embed_tokens)
        self.lm_head = None if config.tie_word_embeddings else weight(model.lm_head)
        self.plain = model.config.layers_without_image
        self.group = config.num_attention_heads // config.num_key_value_heads
        for name in ("key_cache", "value_cache"):
            shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
            self.register_buffer(name, torch.zeros(shape))

    def forward(
        self, input_ids: Tensor, start: Tensor, position: Tensor, last: Tensor, vision_embeds: Tensor | None = None
    ) -> Tensor:
        steps = torch.arange(input_ids.shape[1], dtype=torch.int32)
        cos, sin = self.rotary((position + steps)[None])
        # HiMix's text counts from 0 behind the image, so a layer without the image has `position` slots filled
        filled = {True: position, False: start}
        masks = {kind: slot_mask(steps, first, self.capacity) for kind, first in filled.items()}
        if input_ids.shape[1] > 1:  # one token's mask is every head's
            masks = {kind: mask.repeat(1, 1, self.group, 1) for kind, mask in masks.items()}
        caches = [self.key_cache, self.value_cache]

        def attend(i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            plain = i in self.plain
            for kind, new in enumerate((key, value)):
                caches[kind] = torch.ops.himix_edge.write_slots(caches[kind], new, i, filled[plain])
            # the heads of a group stand one behind the other as queries, in place of as many copies of its keys
            grouped = query.reshape(1, key.shape[1], -1, key.shape[3])
            keys, values = (cache[i][None] for cache in caches)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=masks[plain]).reshape(query.shape)

        table = self.table()
        x = Embedding(lambda ids: F.embedding(ids, table))(input_ids, vision_embeds)
        x = run_layers(self.stack, x, cos, sin, attend)
        self.key_cache.copy_(caches[0])
        self.value_cache.copy_(caches[1])
        head = table if self.lm_head is None else self.lm_head()
        return F.linear(self.stack.norm(x.index_select(1, last)[:, 0]), head)


@torch.library.custom_op("himix_edge::write_slots", mutates_args=())
def write_slots(cache: Tensor, new: Tensor, layer: int, start: Tensor) -> Tensor:
    """cache (L, G, C, h) with new (1, G, T, h) at slots start.. of one layer; Apple's slice_update."""
    first = int(start[0])
    written = cache.clone()
    written[layer, :, first : first + new.shape[2]] = new[0]
    return written


@write_slots.register_fake
def _(cache: Tensor, new: Tensor, layer: int, start: Tensor) -> Tensor:
    return torch.empty_like(cache)
