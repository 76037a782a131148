"""OpenVINO's blocks of 8 bits, as bytes: NumPy alone writes and reads them."""

import numpy as np
import pytest

from himix_edge.runtimes.openvino.eight_bits import KEYS, VALUES, pack, unpack


@pytest.mark.parametrize(("axis", "shape"), [(KEYS, (3, 2, 40, 16)), (VALUES, (3, 2, 32, 24))])
def test_each_number_is_within_half_a_step_and_the_ends_are_met(axis, shape):
    numbers = np.random.default_rng(0).normal(size=(3, 2, 32, 16)).astype(np.float32)
    numbers[0, 0] = 5  # all alike
    blocks = pack(numbers, axis)
    assert (blocks.dtype, blocks.shape) == (np.uint8, shape)
    step = np.ptp(numbers, axis, keepdims=True) / 255
    found = unpack(blocks, axis)
    assert (np.abs(found - numbers) <= 0.501 * step + 1e-3 * (step == 0)).all()
    np.testing.assert_allclose(found.max(axis), numbers.max(axis), rtol=1e-4, atol=1e-5)


def test_scales_and_zeros_stand_where_the_plugin_looks():
    numbers = np.zeros((1, 1, 4, 8), np.float32)
    numbers[0, 0, 0], numbers[0, 0, 1] = -1, np.arange(8)
    keys = pack(numbers, KEYS)[0, 0]
    scales, zeros = keys[:4].reshape(-1).view(np.float32), keys[4:8].reshape(-1).view(np.float32)
    np.testing.assert_allclose(scales, (np.arange(8) + 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(zeros, 1 / scales, rtol=1e-6)
    row = pack(numbers, VALUES)[0, 0, 1]
    np.testing.assert_allclose(row[:8].view(np.float32), [7 / 255, 0], atol=1e-7)
    assert list(row[8:]) == [0, 36, 73, 109, 146, 182, 219, 255]
