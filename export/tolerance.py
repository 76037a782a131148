"""How far an exported file's outputs may be from the reference's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Activations = Literal["float", "float16", "int8"]  # what a bundle computes in, as its manifest says


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from the reference's, in standard deviations of the latter.

    `limit` bounds the largest difference, or with `rms` the root mean square. An answer has to be the same where the
    reference's best two logits are further apart than `margin`.
    """

    limit: float
    rms: bool
    margin: float

    @property
    def metric(self) -> str:
        return "rms diff / std" if self.rms else "max diff / std"


@dataclass(frozen=True)
class Tolerances:
    """What a target asks of its own files.

    Attributes:
        shipped: of a bundle as it is opened, by what it computes in.
        exact: of `Target.exact_engine`, where `exact_reference` is the reference itself.
        questions: how many the bundle as it is opened is asked; None: all. Few where the runtime is a slow reference.
        emulated: the same where `exact_reference` rounds activations as the format does; None: as `exact`.
    """

    shipped: Mapping[Activations, Tolerance]
    exact: Tolerance
    emulated: Tolerance | None = None
    questions: int | None = None


# What floats of these widths come to, whichever runtime it is. Float activations prove that the right weights are in
# the right place. int8 activations are judged more loosely: a language model with outlier channels loses much by them
# (SmolLM2-135M: rms 0.05 to 0.26), a wrong graph far more.
FLOAT32 = Tolerance(2e-4, False, 4e-4)
FLOAT16 = Tolerance(0.02, True, 0.1)
INT8 = Tolerance(0.35, True, 1.0)
