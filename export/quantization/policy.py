"""What is quantized to how many bits: a preset by precision, changed by a small YAML file."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from himix_edge.errors import InputError
from himix_edge.parts import is_table, part_of
from himix_edge.reading import read_yaml, validated

Precision = Literal["none", "int8", "int4"]
GROUP_SIZES = (32, 64, 128)
MAX_POLICY_BYTES = 1 << 16


@dataclass(frozen=True)
class Policy:
    """Bits per role (4, 8, or 32: float), the group size of 4-bit weights, and exceptions by module name."""

    vision_encoder: int
    vision_injector: int
    decoder: int
    embedding: int
    group_size: int = 32
    overrides: tuple[tuple[str, int], ...] = ()  # (module name with * and ?, bits); the first that fits counts

    def bits(self) -> dict[str, int]:
        """Role -> bits, as the manifest records it (32: float)."""
        return {
            "vision_encoder": self.vision_encoder,
            "vision_injector": self.vision_injector,
            "decoder": self.decoder,
            "embedding": self.embedding,
        }


POLICIES: dict[str, Policy] = {
    "none": Policy(32, 32, 32, 32),
    "int8": Policy(8, 8, 8, 8),
    "int4": Policy(8, 8, 4, 4),
}
Bits = Literal[4, 8, 32]


class PolicyFile(BaseModel):
    """The YAML: any of the roles, the group size, and `overrides: {module name or pattern: bits}`."""

    model_config = ConfigDict(extra="forbid")

    vision_encoder: Bits | None = None
    vision_injector: Bits | None = None
    decoder: Bits | None = None
    embedding: Bits | None = None
    group_size: Literal[32, 64, 128] | None = None
    overrides: dict[str, Bits] = {}


def read_policy(path: Path, base: Policy) -> Policy:
    """`base` with the changes of a YAML file.

    Raises:
        InputError: missing, too large, no YAML, or a field or value that is not known.
    """
    raw = read_yaml(path, MAX_POLICY_BYTES)
    changes = validated(PolicyFile, {} if raw is None else raw, str(path))
    fields = {name: value for name, value in changes.model_dump(exclude={"overrides"}).items() if value is not None}
    return replace(base, **fields, overrides=tuple(changes.overrides.items()))


def role_bits(module_name: str, policy: Policy) -> int:
    """The bits that `policy` gives to the module of this name."""
    for pattern, bits in policy.overrides:
        if fnmatchcase(module_name, pattern):
            return bits
    if is_table(module_name):
        return policy.embedding
    by_part = {"tower": policy.vision_encoder, "injection": policy.vision_injector, "decoder": policy.decoder}
    return by_part[part_of(module_name)]


def check_overrides(modules: Iterable[str], policy: Policy) -> None:
    """Each override must decide something: a pattern that is misspelt, or that an earlier one covers, is refused.

    Args:
        modules: names of all modules whose weights can be quantized.
        policy: whose overrides are looked at.

    Raises:
        InputError: naming the pattern, and modules with a similar name.
    """
    names = list(modules)
    left = set(names)
    for pattern, _ in policy.overrides:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            close = get_close_matches(pattern, names, n=3, cutoff=0.5) or names[:1]
            raise InputError(f"--policy: {pattern!r} fits no weight of the model; there are {', '.join(close)} ...")
        if not fitting & left:
            raise InputError(f"--policy: {pattern!r} decides nothing; overrides above it take all that it fits")
        left -= fitting
