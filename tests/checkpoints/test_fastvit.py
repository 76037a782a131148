"""FastViT's tower: what is fused when it is read. Its answers are compared with Apple's code in `test_vlm_goldens`."""

import re

import pytest
import torch

from himix_edge.checkpoints.fastvit_weights import fastvit_weights
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.config import FastViTConfig
from himix_edge.errors import InputError
from himix_edge.model.meta import meta_device
from himix_edge.model.tower import build_tower
from tests.golden.vlm.making import Golden, weights

TINY = FastViTConfig(128, (1,) * 5, (8, 16, 16, 32, 32))
PREFIX = "model.vision_tower.vision_tower.model."


def trained() -> dict[str, torch.Tensor]:
    """A tower with all branches of training, under Apple's names."""
    shapes = Golden.load("fastvlm").shapes
    return {name.removeprefix(PREFIX): t for name, t in weights(shapes).items() if name.startswith(PREFIX)}


def fused(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in fastvit_weights(as_weights(state), TINY, "here").items()}


def inference_form(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tower with its branches fused, under the names that Apple's code gives it then."""
    ours = fused(state)
    places = {
        r"patch_embed\.(\d)\.": lambda m: f"stem.{('first', 'second', 'point')[int(m[1])]}",
        r"network\.(1|3|5|8)\.proj\.(\d)\.": lambda m: (
            f"stages.{(1, 3, 5, 8).index(int(m[1])) + 1}.down.{('large', 'point')[int(m[2])]}"
        ),
        r"network\.(6|9)\.": lambda m: f"stages.{3 if m[1] == '6' else 4}.positions",
        r"network\.(0|2|4)\.0\.token_mixer\.": lambda m: f"stages.{int(m[1]) // 2}.blocks.0.mixer",
        r"conv_exp\.(?!se)": lambda m: "expansion.filter",
    }
    kept = dict(state)
    for name in state:
        for pattern, place in places.items():
            if found := re.match(pattern, name):
                branch = "lkb_reparam" if place(found).endswith("large") else "reparam_conv"
                for part in ("weight", "bias"):
                    tensor = ours[f"{place(found)}.{part}"]
                    tensor = tensor[..., None, None] if part == "weight" and tensor.ndim == 2 else tensor
                    kept[f"{found[0]}{branch}.{part}"] = tensor
                if not re.match(r"network\.\d\.0\.token_mixer\.(qkv|proj)", name):
                    kept.pop(name, None)
    return kept


def test_a_fused_tower_is_the_one_it_was_fused_from():
    state = trained()
    again = inference_form(state)
    assert not any("rbr_" in name or "lkb_origin" in name for name in again)
    first, second = fused(state), fused(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "name", ["patch_embed.0.rbr_conv.0.bn.bias", "network.7.0.norm.weight", "conv_exp.se.reduce.bias"]
)
def test_a_missing_tensor_is_named(name):
    state = trained()
    del state[name]
    with pytest.raises(InputError, match=f"missing {name}"):
        fused(state)


def test_a_surplus_and_a_misshapen_tensor_are_named():
    with pytest.raises(InputError, match=r"surplus network\.99\.weight"):
        fused({**trained(), "network.99.weight": torch.ones(1)})
    with pytest.raises(InputError, match=r"conv_exp\.se\.reduce\.weight has shape \(3,\), its tower wants"):
        fused({**trained(), "conv_exp.se.reduce.weight": torch.ones(3)})


@pytest.mark.parametrize("side", [1024, 512, 100, 65])
def test_sizes_are_those_that_come_out(side):
    config = FastViTConfig(side)
    with meta_device():
        tower = build_tower(config)
        features = tower(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    assert features.shape == (1, config.num_tokens, config.feature_size)
    assert sum(parameter.numel() for parameter in tower.parameters()) == pytest.approx(config.parameters, rel=0.02)


def test_fastvithd_has_its_published_size():
    """FastVLM's paper, arXiv 2412.13303: 125.1 M parameters, with a projection that features do not pass."""
    config = FastViTConfig()
    with meta_device():
        count = sum(parameter.numel() for parameter in build_tower(config).parameters())
    assert config.num_tokens == 256
    assert round((count + config.feature_size * 768) / 1e6) == 125


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"depths": (1,)}, "1 depths and 5 widths"),
        ({"attention_stages": 9}, "attention_stages"),
        ({"head_dim": 7}, "head_dim"),
        ({"widths": (96, 190, 384, 768, 1536)}, "multiple of the one before"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        FastViTConfig(**settings)
