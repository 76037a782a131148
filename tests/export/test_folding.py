"""Folded norms: the same keys and values of an image, made with one norm for all layers."""

import dataclasses

import pytest
import torch

from himix_edge.checkpoints.assemble import assemble
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.config import Injection
from himix_edge.export.graphs import VisionInjector
from himix_edge.export.quantization.folding import fold_image_norms
from himix_edge.model import build_model
from tests.conftest import TINY


@pytest.fixture
def uneven():
    """A tiny model whose vision norms are as different as trained ones, and features to put in."""
    torch.manual_seed(0)
    model = build_model(TINY).eval().requires_grad_(False)
    for layer in model.model.layers:
        torch.nn.init.uniform_(layer.input_layernorm_img.weight, -2, 2)
    return model, torch.randn(1, TINY.vision.num_tokens, TINY.vision.feature_size)


def test_an_image_is_normed_once_and_its_keys_and_values_are_the_same(uneven):
    model, features = uneven
    expected, apart = model.project_image(features), VisionInjector(model)
    folded = assemble(TINY, fold_image_norms(as_weights(model.state_dict())), "folded")
    once = VisionInjector(folded)
    assert apart.norm is None
    assert once.norm is not None
    for injector in (apart, once):
        for kind, found in enumerate(injector(features)):
            torch.testing.assert_close(found, torch.cat([row[kind] for row in expected]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", [{"architecture": "vanilla"}, {"injection": Injection(sharing="uniform")}])
def test_a_model_whose_layers_have_no_such_norms_stays_as_it_is(other):
    model = build_model(dataclasses.replace(TINY, **other))
    weights = as_weights(model.state_dict())
    assert fold_image_norms(weights) == dict(weights)
