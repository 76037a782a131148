"""An injection that starts from words: keys and values that the decoder itself would have for what a place shows."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from himix_edge.config import Injection
from himix_edge.errors import InputError
from himix_edge.model import build_model
from himix_edge.text import Message
from himix_edge.training.objective import WordHead
from himix_edge.training.word_start import QUESTION, fit, start_from_words
from tests.conftest import TINY

WORDS = (20, 30, 40, 50)


def model_and_head(**changes):
    """A model whose tower shows WORDS at the places of an image, one each, and a head that knows it."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(TINY, **changes)).eval()
    head = WordHead(model.config, WORDS)
    looks = torch.randn(len(WORDS), model.config.vision_hidden_size)
    model.vision_tower.forward = lambda pixels: looks.expand(len(pixels), -1, -1)
    with torch.no_grad():
        rows = F.rms_norm(looks, looks.shape[-1:], eps=1e-5)
        head.linear.weight.copy_(40 * torch.linalg.pinv(rows).T)  # 20 where a place shows the word, -20 elsewhere
        head.linear.bias.fill_(-20)
    return model, head, looks


def centered(x):
    return x - x.mean(0)


@torch.no_grad()
def test_a_places_keys_and_values_become_its_words(text, monkeypatch):
    monkeypatch.setattr("himix_edge.training.word_start.RIDGE", 1e-6)
    model, head, looks = model_and_head()
    start_from_words(model, head, text, torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    prompt = text.encode_chat([Message("user", QUESTION)])
    for number in model.config.injected_layers:
        key, value = model.model.layers[number].inject(looks[None])
        layer = model.model.layers[number].self_attn
        taken = []
        hook = layer.k_proj.register_forward_hook(lambda module, args, out, taken=taken: taken.append(out[0, -1]))
        values = [model.hidden(torch.tensor([[*prompt, word]]))[1].value[number][0, :, -1] for word in WORDS]
        hook.remove()
        got = key[0].transpose(0, 1).flatten(1), value[0].transpose(0, 1).flatten(1)
        for ours, decoders in zip(got, (torch.stack(taken), torch.stack(values).flatten(1)), strict=True):
            torch.testing.assert_close(centered(ours), centered(decoders), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_connector_says_the_words(text, monkeypatch):
    monkeypatch.setattr("himix_edge.training.word_start.RIDGE", 1e-6)
    model, head, looks = model_and_head(architecture="vanilla")
    start_from_words(model, head, text, torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    embeddings = model.model.embed_tokens.weight[list(WORDS)]
    torch.testing.assert_close(model.connector(looks), embeddings, rtol=1e-2, atol=1e-3)


def test_the_fit_weighs_and_leaves_out_what_is_common(monkeypatch):
    """Against torch's own least squares on rows that are repeated as often as they weigh."""
    monkeypatch.setattr("himix_edge.training.word_start.RIDGE", 1e-9)
    torch.manual_seed(0)
    rows, targets = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    weights = torch.tensor([[1, 2], [0, 3], [4, 0], [1, 1], [2, 5]], dtype=torch.float64)
    pairs = [(r, w) for r in range(5) for w in range(2) for _ in range(int(weights[r, w]))]
    a, b = rows[[r for r, _ in pairs]], (targets - targets.mean(0))[[w for _, w in pairs]]
    torch.testing.assert_close(fit(rows, weights, targets), torch.linalg.lstsq(a, b).solution.T, rtol=1e-5, atol=1e-5)


def test_shared_injection_has_no_layer_to_start_from(text):
    model, head, _ = model_and_head(injection=Injection(sharing="uniform"))
    with pytest.raises(InputError, match="belongs to no layer"):
        start_from_words(model, head, text, torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
