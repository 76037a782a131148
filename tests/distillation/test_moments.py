"""The streamed least squares against PyTorch's own on all rows at once."""

import pytest
import torch

from himix_edge.distillation.moments import Moments, ridge

SLOTS = 5


def rows(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, SLOTS, 7, generator=generator, dtype=torch.float64) + torch.arange(SLOTS)[:, None]
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    noise = torch.randn(images, SLOTS, 3, generator=generator, dtype=torch.float64)
    return x, x @ weight + 2 * torch.arange(SLOTS)[:, None] + 0.1 * noise


def moments_of(x, y, at_once=4):
    found = Moments(SLOTS, x.shape[2], y.shape[2])
    for some in zip(x.split(at_once), y.split(at_once), strict=True):
        found.add(*some)
    return found


@pytest.mark.parametrize("constant", ["none", "all", "slot"])
def test_maps_are_those_of_least_squares_and_errors_those_of_their_residuals(constant):
    x, y = rows(11)
    columns = {
        "none": torch.zeros(11, SLOTS, 0), "all": torch.ones(11, SLOTS, 1), "slot": torch.eye(SLOTS).repeat(11, 1, 1),
    }[constant].double()  # fmt: skip
    expected = torch.linalg.lstsq(torch.cat([x, columns], 2).flatten(0, 1), y.flatten(0, 1)).solution
    (found,) = ridge(moments_of(x, y), constant, (0.0,))
    assert torch.allclose(found.weight, expected[:7], rtol=0, atol=1e-9)
    added = columns[0] @ expected[7:]
    assert torch.allclose(found.constant, added, rtol=0, atol=1e-8)
    other_x, other_y = rows(6, seed=1)
    others = moments_of(other_x, other_y)
    residual = other_y - other_x @ found.weight - found.constant
    assert torch.allclose(others.errors(found), residual.square().sum((0, 1)), rtol=1e-9, atol=0)
    spread = other_y - other_y.mean((0, 1))
    assert torch.allclose(others.variance(), spread.square().sum((0, 1)), rtol=1e-9, atol=0)


def test_a_penalty_shrinks_the_weight_and_not_the_constant():
    maps = list(ridge(moments_of(*rows(11)), "slot", (0.0, 1.0, 1e9)))
    sizes = [float(fit.weight.norm()) for fit in maps]
    assert sizes[0] > sizes[1] > 1e3 * sizes[2]
    y = rows(11)[1]
    assert torch.allclose(maps[2].constant, y.mean(0), rtol=0, atol=1e-6)
