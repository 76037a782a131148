"""Where an injection starts: what an image shows, as the decoder itself would hold the words for it.

A fresh injection gives every place of an image random keys and values, and most of a small run goes by until a decoder
that does not learn yet finds anything in them. It has keys and values of its own for a word, though, and the heads
that look for a word look for those. The closest linear map from places to them is a least-squares fit.
"""

from typing import cast

import torch
from torch import Tensor, nn

from himix_edge.errors import InputError
from himix_edge.model import HiMixModel, VanillaModel, VisionLanguageModel
from himix_edge.model.decoder import rope_tables, rotate
from himix_edge.text import Message, TextProcessor
from himix_edge.training.objective import WordHead

RIDGE = 0.01  # of the mean square of what is fitted
IMAGES = 32  # encoded at a time
QUESTION = "What is in the picture?"  # that a word begins to answer


@torch.no_grad()
def start_from_words(model: VisionLanguageModel, head: WordHead, text: TextProcessor, pixels: Tensor) -> None:
    """Set a fresh injection's weights: HiMix's projections in each layer, or a vanilla connector's second one.

    Args:
        model: its tower and `head` have learned which place shows which word.
        text: of the model.
        pixels: uint8 (I, S, S, 3), images that the fit is made on.

    Raises:
        InputError: an injection that layers share, or that mixes, has no layer's keys and values to start from.
    """
    features = torch.cat([model.encode_image(some) for some in pixels.split(IMAGES)])
    shown = head.at_places(features).sigmoid().flatten(0, 1)
    shown = shown / shown.sum(0)  # rare words count as much as common ones
    if isinstance(model, VanillaModel):
        embedding = model.model.embed_tokens.weight[head.words]
        hidden, last = model.connector[:-1](features).flatten(0, 1), cast(nn.Linear, model.connector[-1])
        last.weight.copy_(fit(hidden, shown, embedding))
        last.bias.copy_(embedding.mean(0))
        return
    injection = model.config.injection
    if not isinstance(model, HiMixModel) or injection.sharing != "none" or injection.mixing is not None:
        raise InputError("from_words: this injection belongs to no layer, whose words it could start from")
    own = words_in_layers(model, head.words, text)
    for number in model.config.injected_layers:
        layer, (key, value) = model.model.layers[number], own[number]
        rows = layer.input_layernorm_img(features).flatten(0, 1)
        layer.self_attn.k_proj_img.weight.copy_(fit(rows, shown, key))
        layer.self_attn.v_proj_img.weight.copy_(fit(rows, shown, value))


def words_in_layers(model: VisionLanguageModel, words: Tensor, text: TextProcessor) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys, before they are rotated, and values (W, G * h) of `words` (W,) that begin an answer."""
    prompt = torch.tensor(text.encode_chat([Message("user", QUESTION)]), device=words.device)
    ids = torch.cat([prompt.expand(len(words), -1), words[:, None]], 1)
    cache = model.hidden(ids)[1]
    cos, sin = rope_tables(model.config.decoder, torch.tensor([len(prompt)], device=words.device))
    return [
        (rotate(key[:, :, -1:], cos, -sin).flatten(1), value[:, :, -1].flatten(1))
        for key, value in zip(cache.key, cache.value, strict=True)
    ]


def fit(rows: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """The linear map (k, d) that brings `rows` (P, d) closest to the `targets` (W, k) that `weights` (P, W) give them.

    Squares are weighted and damped. What all targets have in common is left out: a row should say what tells its word
    from others.
    """
    gram = (rows * weights.sum(1, keepdim=True)).T @ rows
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, rows.T @ (weights @ (targets - targets.mean(0)))).T
