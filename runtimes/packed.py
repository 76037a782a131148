"""Keys and values in fewer bits than float32 has: float16, or int8 with scales."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Floats

FLOAT_BITS = 32
BITS = (FLOAT_BITS, 16, 8)
LARGEST = 127  # of what int8 is used for; -128 is not


@dataclass(frozen=True)
class Packed:
    """An array (I, G, N, h).

    Attributes:
        numbers: float16, or int8.
        scales: of int8: float32, 1 long on the axis whose numbers share a scale, else as long as `numbers`. None of
            float16.
    """

    numbers: NDArray[np.float16] | NDArray[np.int8]
    scales: Floats | None = None

    def floats(self) -> Floats:
        """float32 (I, G, N, h), made anew by each call."""
        made = self.numbers.astype(np.float32)
        if self.scales is not None:
            made *= self.scales
        return made

    @property
    def bits(self) -> int:
        """16 or 8."""
        return 8 * self.numbers.itemsize

    @property
    def nbytes(self) -> int:
        """Of the numbers and their scales."""
        return self.numbers.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def is_finite(self) -> bool:
        """Whether each of `floats` is finite, and each scale above 0."""
        if self.scales is None:
            return bool(np.isfinite(self.numbers).all())
        return bool(((self.scales > 0) & (self.scales < np.finfo(np.float32).max / (LARGEST + 1))).all())


def pack(array: Floats, bits: int, axis: int) -> Packed:
    """Round an array (I, G, N, h) to the nearest in 16 or 8 bits.

    Args:
        array: finite.
        bits: 16: float16; 8: int8, symmetric about 0.
        axis: the numbers along it share a scale, in 8 bits.

    Raises:
        InputError: float16 does not reach so far.
    """
    if bits == 16:
        if array.size and np.abs(array).max() > np.finfo(np.float16).max:
            raise InputError("keys and values beyond 65504 do not fit into 16 bits; take 8 or 32")
        return Packed(array.astype(np.float16))
    scales = np.abs(array).max(axis, keepdims=True, initial=0) / np.float32(LARGEST)
    scales[scales == 0] = 1
    return Packed(np.clip(np.rint(array / scales), -LARGEST, LARGEST).astype(np.int8), scales)
