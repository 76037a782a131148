"""Blocks of OpenVINO's paged cache in 8 bits: uint8, with a scale and a zero for each channel or token of a block.

A block of keys begins with a scale for each channel and a zero for each, as rows of float32's bytes; its numbers
follow. A row of values, one token's, begins with its scale and its zero. A number is (q - zero) * scale. The CPU plugin
has it so (nodes/kernels/scaled_attn/attn_quant.cpp), and says its size in the shapes of a compiled decoder.
"""

import numpy as np
from numpy.typing import NDArray

from himix_edge.runtimes.engine import Floats

KEYS, VALUES = 2, 3  # the axis along which numbers share a scale
EXTRA = 8  # rows of a block of keys in front of its numbers, or bytes of a row of values
STEPS = 255


def pack(numbers: Floats, axis: int) -> NDArray[np.uint8]:
    """Blocks (B, G, slots, h) as keys (B, G, 8 + slots, h) or values (B, G, slots, 8 + h), as `axis` says."""
    low, high = numbers.min(axis, keepdims=True), numbers.max(axis, keepdims=True)
    scale = (high - low) / np.float32(STEPS)
    scale[scale == 0] = 1e-4  # as the plugin does
    zero = -low / scale
    steps = numbers * (1 / scale)
    steps += zero
    np.clip(np.rint(steps, out=steps), 0, STEPS, out=steps)
    rounded = steps.astype(np.uint8)
    head = np.ascontiguousarray(np.concatenate([scale, zero], axis)).view(np.uint8)
    if axis == KEYS:
        head = head.reshape(*numbers.shape[:2], EXTRA, numbers.shape[3])
    return np.concatenate([head, rounded], axis)


def unpack(blocks: NDArray[np.uint8], axis: int) -> Floats:
    """float32 (B, G, slots, h) of what `pack` gives, or the plugin wrote."""
    head, rounded = np.split(blocks, [EXTRA], axis)
    if axis == KEYS:
        head = head.reshape(*blocks.shape[:2], 2, 4 * blocks.shape[3])
    scale, zero = np.split(np.ascontiguousarray(head).view(np.float32), 2, axis)
    return (rounded.astype(np.float32) - zero) * scale
