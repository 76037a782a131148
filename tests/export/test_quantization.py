"""Quantise once: the integers' ranges, the scales' types, and what the reference is."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.assemble import assemble
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.checkpoints.source import random_source
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export.pipeline import PROBE
from himix_edge.export.quantization import tensors
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.export.quantization.rounding import round_weights
from himix_edge.export.quantization.tensors import MIN_SCALE, deviation, quantize, quantize_tensor
from himix_edge.export.targets.onnx.matmul_nbits import pack_blocks
from tests.conftest import TINY

WEIGHT = torch.randn(24, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-7, 1, 24)[:, None]


@pytest.mark.parametrize(("bits", "group", "low", "high"), [(4, 32, -8, 7), (4, 128, -8, 7), (8, 0, -127, 127)])
def test_ranges_shapes_and_scales(bits, group, low, high):
    q = quantize_tensor(WEIGHT, bits, group)
    assert q.values.dtype == torch.int8
    assert low <= int(q.values.min())
    assert int(q.values.max()) <= high
    assert q.scale.shape == (24, 128 // (group or 128))
    assert torch.equal(q.scale, q.scale.to(torch.bfloat16).float())
    assert torch.equal(q.scale, q.scale.to(torch.float16).float())
    assert float(q.scale.min()) >= MIN_SCALE
    steps = (WEIGHT - q.dequantize()) / q.scale.repeat_interleave(q.group_size, 1)
    assert float(steps.abs().max()) <= 0.5 + 127 * 2**-8 * (bits == 8) + 8 * 2**-8 * (bits == 4)


def test_zero_and_non_finite_weights():
    assert float(quantize_tensor(torch.zeros(2, 32), 4, 32).dequantize().abs().max()) == 0
    for wrong in (torch.nan, torch.inf):
        weight = torch.ones(3, 32)
        weight[1, 7] = wrong
        with pytest.raises(ValueError, match="finite"):
            quantize_tensor(weight, 8, 0)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_checkpoint_with_a_nan_is_refused_by_name(tiny_checkpoint, name, rounding):
    source = open_source(tiny_checkpoint)
    broken = source.weights[name].read().clone()
    broken.flatten()[3] = torch.nan
    source = dataclasses.replace(source, weights={**source.weights, **as_weights({name: broken})})
    for precision in ("none", "int4"):
        with pytest.raises(InputError, match=f"{name}: a value is NaN"):
            round_weights(source, POLICIES[precision], rounding, load_llava(PROBE).samples[:1], lambda _: None)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_weight_too_large_for_any_scale_is_refused_by_name(tiny_checkpoint, precision):
    source, name = open_source(tiny_checkpoint), "model.layers.0.mlp.up_proj.weight"
    large = source.weights[name].read().clone()
    large[0, 3] = 1e8
    source = dataclasses.replace(source, weights={**source.weights, **as_weights({name: large})})
    with pytest.raises(InputError, match=f"{name}: 1e[+]08 is too large for a scale in float16"):
        quantize(source, POLICIES[precision])


def test_a_nan_is_no_small_deviation():
    weight = torch.randn(4, 64)
    broken = quantize_tensor(weight, 8, 0)
    broken.scale[1] = torch.nan
    assert not deviation(weight, broken, False).steps <= 1e9


@pytest.mark.parametrize(("bits", "group", "columns"), [(4, 32, 128), (8, 0, 96), (8, 0, 100)])
def test_packing_for_onnx_runtime_keeps_integers_and_scales(bits, group, columns):
    q = quantize_tensor(torch.randn(5, columns), bits, group)
    packed, scale, block = pack_blocks(q)
    integers = packed.numpy().astype(np.int16)
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], -1).reshape(5, -1, block)
    integers -= 8 if bits == 4 else 128
    assert (integers.reshape(5, -1)[:, :columns] == q.values.numpy()).all()
    assert (integers.reshape(5, -1)[:, columns:] == 0).all()
    assert np.array_equal(np.repeat(scale, block, 1)[:, :columns], np.repeat(q.scale, q.group_size, 1))


def test_policy_by_role():
    source = random_source(TINY, "tiny")
    quantized = quantize(source, POLICIES["int4"])
    bits = {name: tensor.bits for name, tensor in quantized.tensors.items()}
    assert bits["vision_tower.blocks.0.fc1.weight"] == 8
    assert bits["model.layers.1.self_attn.k_proj_img.weight"] == 8
    assert bits["model.layers.0.mlp.up_proj.weight"] == 4
    assert bits["model.embed_tokens.weight"] == 4
    for name, tensor in quantized.reference.state_dict().items():
        if name.rpartition(".")[2] not in ("values", "scale"):
            assert torch.equal(tensor, source.weights[name].read().float())
    assert not quantize(source, POLICIES["none"]).tensors


def test_the_reference_computes_with_the_dequantized_weights():
    source = random_source(TINY, "tiny")
    quantized = quantize(source, POLICIES["int4"])
    plain = assemble(TINY, source.weights, "tiny")
    state = {name: tensor.dequantize() for name, tensor in quantized.tensors.items()}
    plain.load_state_dict(state, strict=False)
    ids, pixels = torch.randint(400, (1, 7)), torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(quantized.reference(ids, pixel_values=pixels), plain(ids, pixel_values=pixels))


def test_working_on_some_rows_at_a_time_changes_nothing(monkeypatch):
    weight, states = torch.randn(50, 64), torch.randn(2, 3, 64)
    whole = quantize_tensor(weight, 4, 32)
    steps = deviation(weight, whole, True).steps
    monkeypatch.setattr(tensors, "rows_at_a_time", lambda columns: 16)
    parts = quantize_tensor(weight, 4, 32)
    assert torch.equal(parts.values, whole.values)
    assert torch.equal(parts.scale, whole.scale)
    assert [len(rows.values) for rows in whole.split()] == [16, 16, 16, 2]
    assert deviation(weight, whole, True).steps == pytest.approx(steps, rel=1e-5)
    expected = F.linear(states, whole.dequantize())
    assert torch.allclose(tensors.QuantizedEmbedding(whole).project(states), expected, atol=1e-6)


def test_the_deviation_is_measured_not_assumed():
    weight = torch.randn(6, 64)
    quantized = quantize_tensor(weight, 4, 32)
    quantized.values[2, 3] += 3
    off = (weight - quantized.dequantize()) / quantized.scale.repeat_interleave(32, 1)
    assert deviation(weight, quantized, False).steps == pytest.approx(float(off.abs().max()), rel=1e-6)
    assert deviation(weight, quantized, True).steps == pytest.approx(float(off.square().mean().sqrt()), rel=1e-6)
    found = deviation(weight, quantized, False)
    assert found.steps > 2 > found.limit


def test_a_group_that_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"96 input channels are not a multiple of group size 64"):
        quantize(random_source(TINY, "tiny"), dataclasses.replace(POLICIES["int4"], group_size=64))
