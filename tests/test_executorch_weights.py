"""How ExecuTorch's weights are cut and joined; reading them back is tested with the other targets'."""

import torch
from torch.nn import functional as F

from himix_edge.export.executorch_weights import Pieces, pieces_of, side_by_side
from himix_edge.export.quantisation import QuantizedLinear, quantise_tensor
from tests.conftest import TINY


def test_pieces_are_equal_whole_groups_and_not_too_narrow():
    expected = {(576, 32): 2, (1536, 32): 2, (896, 128): 1, (4864, 128): 2, (2048, 0): 2, (192, 32): 1, (256, 32): 2}
    assert {shape: pieces_of(*shape) for shape in expected} == expected


def quantised_input(x):
    """Asymmetric int8 with one scale for each token, as XNNPACK has it."""
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round()
    return ((x / scale + zero).round().clamp(-128, 127) - zero) * scale


def test_a_loud_channel_costs_only_its_own_piece():
    torch.manual_seed(0)
    tensor, x = quantise_tensor(torch.randn(48, 256), 4, 32), torch.randn(5, 256)
    x[:, 7] *= 100
    exact = F.linear(x, tensor.dequantise())
    off = {}
    for count in (1, 4):
        found = Pieces(tensor, None, count)(x)
        parts = zip(x.chunk(count, 1), tensor.dequantise().chunk(count, 1), strict=True)
        by_hand = sum(F.linear(quantised_input(part), weight) for part, weight in parts)
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=2e-2)
        off[count] = float((found - exact).square().mean())
    assert off[4] < 0.4 * off[1]


def test_linears_side_by_side_are_one_only_where_their_weights_are_alike():
    torch.manual_seed(0)

    def linear(rows, bits):
        made = QuantizedLinear(quantise_tensor(torch.randn(rows, 64), bits, 32 if bits == 4 else 0), torch.randn(rows))
        made.name = "model.layers.0.self_attn.q_proj.weight"
        return made

    x = torch.randn(2, 3, 64)
    for bits, parts in ((4, 1), (8, 2)):
        linears = [linear(16, 4), linear(8, bits)]
        joined = side_by_side(linears, TINY)
        assert len([m for m in joined.modules() if isinstance(m, torch.nn.Linear)]) == parts
        expected = torch.cat([one(x) for one in linears], -1)
        assert (joined(x) - expected).abs().max() < 0.1 * expected.std()
