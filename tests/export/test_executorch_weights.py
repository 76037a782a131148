"""How ExecuTorch's weights are cut and joined; reading them back is tested with the other targets'."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from himix_edge.export.quantization.tensors import QuantizedLinear, QuantizedTensor, digest, quantize_tensor
from himix_edge.export.targets.executorch.target import Norm, Rotary
from himix_edge.export.targets.executorch.weights import (
    PackedEmbedding,
    Pieces,
    SideBySide,
    cut_rows,
    pieces_of,
    put_together,
)
from himix_edge.model.decoder import RMSNorm, rotate
from tests.conftest import TINY


def test_pieces_are_equal_whole_groups_and_not_too_narrow():
    def count(columns, group, name="model.layers.0.mlp.down_proj.weight", config=TINY):
        return pieces_of(quantize_tensor(torch.zeros(1, columns), 4 if group else 8, group), name, config)

    expected = {(576, 32): 3, (1536, 32): 4, (896, 128): 1, (4864, 128): 2, (2048, 0): 4, (192, 32): 1, (256, 32): 2}
    assert {shape: count(*shape) for shape in expected} == expected
    assert [count(columns, 32, "lm_head.weight") for columns in (576, 896, 2048)] == [6, 7, 8]
    assert count(1536, 32, "model.layers.0.mlp.up_proj.weight") == 1
    assert count(1536, 32, config=replace(TINY, architecture="vanilla")) == 1


def quantized_input(x):
    """Asymmetric int8 with one scale for each token, as XNNPACK has it."""
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round()
    return ((x / scale + zero).round().clamp(-128, 127) - zero) * scale


def test_a_loud_channel_costs_only_its_own_piece():
    torch.manual_seed(0)
    tensor, x = quantize_tensor(torch.randn(48, 256), 4, 32), torch.randn(5, 256)
    x[:, 7] *= 100
    exact = F.linear(x, tensor.dequantize())
    off = {}
    for count in (1, 4):
        found = Pieces(tensor, None, count)(x)
        parts = zip(x.chunk(count, 1), tensor.dequantize().chunk(count, 1), strict=True)
        by_hand = sum(F.linear(quantized_input(part), weight) for part, weight in parts)
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=2e-2)
        off[count] = float((found - exact).square().mean())
    assert off[4] < 0.4 * off[1]


def test_linears_side_by_side_are_as_by_themselves_and_round_their_input_once():
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 16)
    linears = [QuantizedLinear(quantize_tensor(torch.randn(16, 64), 4, 32), torch.randn(16)), plain]
    x = torch.randn(2, 3, 64)
    found = SideBySide(linears)(x)
    torch.testing.assert_close(found[0], linears[0](quantized_input(x)), rtol=1e-4, atol=2e-2)
    assert torch.equal(found[1], plain(x))


def test_rows_cut_apart_are_the_same_rows():
    torch.manual_seed(0)
    x = torch.randn(5, 64)
    for linear in (QuantizedLinear(quantize_tensor(torch.randn(32, 64), 4, 32), None), torch.nn.Linear(64, 32, False)):
        parts = cut_rows(linear, 4)
        assert len(parts) == 4
        torch.testing.assert_close(torch.cat([part(x) for part in parts], 1), linear(x))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [1, 3])
def test_the_embedding_looks_up_what_the_table_means(bits, count):
    torch.manual_seed(0)
    table = quantize_tensor(torch.randn(50, 192), bits, 32 * (bits == 4))
    ids = torch.tensor([[3, 49, 0, 3]])
    assert torch.equal(PackedEmbedding(table, count)(ids), F.embedding(ids, table.dequantize()))


def test_norm_and_rotary_in_xnnpacks_operations_are_the_models():
    torch.manual_seed(0)
    norm, x = RMSNorm(64, 1e-5), torch.randn(1, 7, 3, 64)
    norm.weight.data = torch.randn(64)
    torch.testing.assert_close(Norm(norm)(x), norm(x))
    angles = torch.randn(7, 1, 32)
    cos, sin = angles.cos(), angles.sin()
    turned = Rotary(64)(x, torch.cat([cos, cos], -1), torch.cat([sin, sin], -1))
    assert torch.equal(turned, rotate(x, cos, sin))


def test_weights_are_put_together_from_their_parts_and_what_fits_nowhere_is_unknown():
    """A damaged weight that belongs to no place neither ends the reading nor spoils the weights after it."""
    torch.manual_seed(0)
    shapes = {"rows": (64, 32), "columns": (16, 128), "whole": (8, 64)}
    bits = {"rows": 4, "columns": 8, "whole": 4}
    made = {
        name: quantize_tensor(torch.randn(shape), bits[name], 32 * (bits[name] == 4)) for name, shape in shapes.items()
    }
    names = {digest(tensor): name for name, tensor in made.items()}
    rows = made["rows"]
    by_rows = [QuantizedTensor(rows.values[half], rows.scale[half], 4) for half in (slice(32), slice(32, None))]
    by_columns = [QuantizedTensor(part, made["columns"].scale, 8) for part in made["columns"].values.chunk(4, 1)]
    stranger = quantize_tensor(torch.randn(5, 96), 8, 0)
    other_bits = quantize_tensor(torch.randn(16, 32), 4, 32)
    damaged = QuantizedTensor(made["whole"].values + 1, made["whole"].scale, 4)

    def read(*stored):
        return dict(put_together(stored, names, list(shapes.items())))

    found = read(stranger, *by_rows, stranger, by_columns[0], other_bits, *by_columns[1:], made["whole"])
    assert list(found) == ["unknown 0", "rows", "unknown 3", "unknown 5", "columns", "whole"]
    assert all(digest(found[name]) == digest(tensor) for name, tensor in made.items())
    assert list(read(*by_rows, made["columns"], damaged, damaged)) == [
        "rows", "columns", "unknown 3: in the place of whole", "unknown 4",
    ]  # fmt: skip
