"""Rotary embeddings in a config.json: `rope_theta` and `rope_scaling`, or transformers 5's `rope_parameters`.

A file may hold both forms. transformers 4 reads the older and transformers 5 the newer one, so where they contradict
each other the same file is two models: it is refused.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.errors import InputError

KEYS = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency scaling (`rope_type` "llama3" of Hugging Face's rope utilities)."""

    factor: Annotated[float, Field(ge=1, le=1e6)]
    low_freq_factor: Annotated[float, Field(gt=0, le=1e6)]
    high_freq_factor: Annotated[float, Field(gt=0, le=1e6)]
    original_max_position_embeddings: int
    rope_type: Literal["llama3"] = "llama3"

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor}) must be above low_freq_factor ({self.low_freq_factor})"
            )


def rope_fields(raw: dict[str, object], where: str) -> dict[str, object]:
    """`rope_theta` and `rope_scaling` of a config.json, not yet validated; absent where it leaves the usual value.

    Raises:
        InputError: a kind of scaling that is not supported, or two places that contradict each other; named.
    """
    places = {key: _part(raw[key], key, where) for key in KEYS if raw.get(key) not in (None, {})}
    thetas = {"rope_theta": raw.get("rope_theta")}
    thetas |= {f"{key}.rope_theta": part.get("rope_theta") for key, part in places.items()}
    scalings = {key: _scaling(part, key, where) for key, part in places.items()}
    fields: dict[str, object] = {}
    if (theta := _agreed(thetas, where)) is not None:
        fields["rope_theta"] = theta
    if len(scalings) == 2 and scalings["rope_parameters"] != scalings["rope_scaling"]:
        raise InputError(f"{where}: rope_parameters and rope_scaling contradict each other; remove the wrong one")
    if scaling := next(iter(scalings.values()), None):
        fields["rope_scaling"] = scaling
    return fields


def _part(value: object, key: str, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} is {str(value)[:40]!r}, not an object with a rope_type")
    if any(isinstance(item, dict) for item in value.values()):
        raise InputError(f"{where}: {key} differs by layer type ({', '.join(value)[:80]}), which is not supported")
    return value


def _agreed(thetas: dict[str, object], where: str) -> object:
    """The one value that all places give which give any."""
    given = {name: value for name, value in thetas.items() if value is not None}
    first = next(iter(given.values()), None)
    for value in given.values():
        if value != first:
            said = ", ".join(f"{name} {value!r:.40}" for name, value in given.items())
            raise InputError(f"{where}: {said} contradict each other; remove the wrong one")
    return float(first) if type(first) is int and abs(first) < 1 << 60 else first


def _scaling(part: dict[str, object], key: str, where: str) -> dict[str, object] | None:
    """The fields of a `RopeScaling`; None where positions are not scaled."""
    kinds = {kind for name in ("rope_type", "type") if isinstance(kind := part.get(name), str)}
    if len(kinds) > 1 or any(part.get(name, "") is None for name in ("rope_type", "type") if not kinds):
        raise InputError(f"{where}: {key}: rope_type {part.get('rope_type')!r} and type {part.get('type')!r}; give one")
    settings = {k: v for k, v in part.items() if k not in ("rope_type", "type", "rope_theta") and v is not None}
    kind = next(iter(kinds), None)
    if kind is None and (settings or "rope_type" in part or "type" in part):
        raise InputError(f"{where}: {key} names no rope_type; llama3 and default are supported")
    if settings.get("partial_rotary_factor") == 1:
        del settings["partial_rotary_factor"]
    known = {f.name for f in dataclasses.fields(RopeScaling)}
    if kind not in (None, "default", "llama3"):
        raise InputError(f"{where}: {key} type {kind[:40]!r} is not supported; only llama3 is")
    for name in settings.keys() - known:
        raise InputError(f"{where}: {key}: {name} is not supported")
    return {**settings, "rope_type": kind} if kind == "llama3" else None
