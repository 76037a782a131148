"""`himix verify --weights`: integers and scales read back out of bundles, compared bit for bit."""

from dataclasses import dataclass

from himix_edge.bundle import Bundle
from himix_edge.errors import InputError
from himix_edge.export.quantization.tensors import digests_of
from himix_edge.export.targets import find_target


@dataclass(frozen=True)
class Comparison:
    """One bundle: how many tensors it holds, and which are not what its manifest or the other bundles say."""

    bundle: Bundle
    tensors: int
    reference: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reference and not self.others


def compare(bundles: list[Bundle]) -> list[Comparison]:
    """Read every bundle's quantized weights and compare them with the quantizer's and with each other.

    Raises:
        InputError: a bundle without quantized weights, or two bundles of different models or precisions.
        BackendMissing: a target's packages are not installed.
    """
    first = bundles[0]
    for bundle in bundles:
        if not bundle.manifest.weights:
            raise InputError(f"{bundle.folder}: no quantized weights to read; export it with --quant int8 or int4")
        if bundle.manifest.weights.keys() != first.manifest.weights.keys():
            raise InputError(f"{bundle.folder}: another model or precision than {first.folder}; compare it by itself")
    stored = [digests_of(find_target(b.manifest.target).read_weights(b), b.manifest.weights) for b in bundles]
    found = []
    for bundle, digests in zip(bundles, stored, strict=True):
        expected = bundle.manifest.weights
        names = expected.keys() | digests.keys()
        off = tuple(sorted(name for name in names if digests.get(name) != expected.get(name)))
        differing = tuple(sorted(n for n in expected if any(other.get(n) != digests.get(n) for other in stored)))
        found.append(Comparison(bundle, len(digests), off, differing))
    return found
