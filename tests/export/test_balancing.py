"""Balanced inputs: the same integers, the same outputs, and groups of like sizes."""

import dataclasses

import pytest
import torch

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.source import random_source
from himix_edge.export.quantization.balancing import balance, group_ranges, powers, rounding_error
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.export.quantization.rounding import round_weights
from himix_edge.export.quantization.tensors import MIN_SCALE, QuantizedTensor, quantize, quantize_tensor
from himix_edge.export.targets import find_target
from himix_edge.export.targets.executorch.weights import int8_per_token
from tests.conftest import TINY

TEXTS = torch.arange(120).reshape(8, 15)


def loud(source, factor=40):
    """The same model with one group of channels that is louder than the other, as outliers are."""
    weights = dict(source.weights)
    for name, tensor in source.weights.items():
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
            changed = tensor.read().float().clone()
            changed[5] *= factor
            weights[name] = dataclasses.replace(tensor, read=lambda changed=changed: changed)
    return dataclasses.replace(source, weights=weights)


def both(source, policy=POLICIES["int4"]):
    """A model in 4 bits, and balanced."""
    before = quantize(source, policy)
    four = {name: tensor for name, tensor in before.tensors.items() if tensor.bits == 4}
    weights, tensors = balance(source.weights, four, group_ranges(before.reference, TEXTS, policy.group_size))
    return before, quantize(dataclasses.replace(source, weights=weights), policy, tensors)


def spread(model):
    """Largest ratio, of all inputs that norms make, between the largest magnitudes of two groups of 32 channels."""
    sizes = [found.abs().amax(dim=(0, 1)) for found in group_ranges(model, TEXTS, 32).values()]
    return max(float(size.max() / size.min()) for size in sizes)


@pytest.mark.parametrize("case", ["qwen2_tied", "llama_untied"])
def test_the_balanced_model_has_the_same_integers_and_computes_the_same(case):
    source = loud(open_source(f"tests/golden/{case}"))
    before, after = both(source)
    moved = 0
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name].values, tensor.values)
        factor = after.tensors[name].scale / tensor.scale
        assert bool((factor.log2() == factor.log2().round()).all())
        assert after.deviation[name].steps <= after.deviation[name].limit
        moved += bool((factor != 1).any())
        assert name.endswith(
            ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
        ) or bool((factor == 1).all())
    assert moved == 5 * source.config.decoder.num_hidden_layers
    with torch.inference_mode():
        expected, found = before.reference(TEXTS), after.reference(TEXTS)
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.std())
    assert spread(after.reference) < 0.6 * spread(before.reference)


@pytest.mark.parametrize("architecture", ["himix", "vanilla"])
def test_what_sees_the_image_computes_the_same(architecture):
    source = loud(random_source(dataclasses.replace(TINY, architecture=architecture), "tiny"))
    before, after = both(source)
    assert spread(after.reference) < 0.6 * spread(before.reference)
    pixels = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = (m.reference(TEXTS[:1], pixel_values=pixels) for m in (before, after))
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.std())


def test_int8_activations_cost_less():
    """Of eight groups the loud one keeps its rounding, the others get a finer one."""
    wide = dataclasses.replace(TINY, decoder=dataclasses.replace(TINY.decoder, hidden_size=256))
    before, after = both(loud(random_source(wide, "wide")))
    errors = []
    with torch.inference_mode():
        expected = before.reference(TEXTS)
        for model in (before, after):
            emulated = find_target("executorch").exact_reference(model)
            errors.append(float((emulated(TEXTS) - expected).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_no_scale_falls_below_what_every_runtime_holds():
    scale = torch.tensor([[MIN_SCALE * 4, 1.0, 1.0], [1.0, MIN_SCALE * 1.5, 1.0]])
    user = QuantizedTensor(torch.ones(2, 96, dtype=torch.int8), scale, 4)
    ranges = torch.tensor([[-1.0, -1.0, -(2.0**30)], [1.0, 1.0, 2.0**30]])[:, None]
    found = powers(ranges, [user])
    assert found[:2].tolist() == [0.25, 1.0]
    assert found[2] > 1000
    assert float((scale * found).min()) >= MIN_SCALE


def test_no_input_is_divided_by_more_than_it_needs():
    """What all groups are divided by together costs float16 its small numbers and gains nothing."""
    user = QuantizedTensor(torch.ones(2, 96, dtype=torch.int8), torch.ones(2, 3), 4)
    sizes = torch.tensor([1.0, 8.0, 64.0])
    found = powers(torch.stack([-sizes, sizes])[:, None], [user])
    assert float(found.max()) == 1.0
    assert found[0] < found[2]


def test_the_error_is_what_rounding_costs():
    """Uniform rounding errors of a step / sqrt(12), in groups of any size."""
    torch.manual_seed(0)
    user = quantize_tensor(torch.randn(64, 128), 4, 32)
    x = torch.randn(500, 128) * torch.tensor([1.0, 30.0, 0.2, 5.0]).repeat_interleave(32)
    groups = x.unflatten(1, (4, 32))
    ranges = torch.stack([groups.amin(2), groups.amax(2)])
    energy = user.dequantize().square().sum(0).unflatten(0, (4, 32)).sum(1)
    power = powers(ranges, [user])
    errors = []
    for size in (torch.ones(4), power):
        columns = size.repeat_interleave(32)
        off = (int8_per_token(x / columns) - x / columns) @ (user.dequantize() * columns).T
        found = float(off.square().sum(1).mean()) * 12 * 255**2
        assert rounding_error(ranges, energy, size.log2()) == pytest.approx(found, rel=0.05)
        errors.append(found)
    assert errors[1] < 0.6 * errors[0]


def test_a_linear_in_other_bits_keeps_its_input():
    policy = dataclasses.replace(POLICIES["int4"], overrides=(("*.k_proj", 8),))
    before, after = both(loud(open_source("tests/golden/qwen2_tied")), policy)
    same = {
        name: torch.equal(after.tensors[name].scale, tensor.scale)
        for name, tensor in before.tensors.items()
        if name.startswith("model.layers.0")
    }
    assert [name.split(".")[-2] for name, unchanged in same.items() if not unchanged] == ["gate_proj", "up_proj"]


def test_a_language_model_is_balanced(text):
    source = dataclasses.replace(loud(random_source(TINY, "tiny")), load_template=lambda: text.template)
    source = dataclasses.replace(source, load_tokenizer=lambda: text.tokenizer)
    steps = []
    made = round_weights(source, POLICIES["int4"], "gptq", (), steps.append)
    assert "balancing" in steps
    assert spread(made.reference) < 0.6 * spread(
        round_weights(source, POLICIES["int4"], "nearest", (), steps.append).reference
    )
