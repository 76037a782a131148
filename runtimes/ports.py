"""What goes into each role's graph and comes out of it, as docs/bundle-format.md names it: no file stands in another's.

A runtime that is handed the tower's graph as the injector would say so in its own words, and at the first picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Floats

Shape = Sequence[object] | None  # lengths; one that is no number may be any, and None too
MOST_NAMES = 4  # in a message: the file has as many as it likes


def check_ports(
    path: Path,
    role: str,
    config: ModelConfig,
    inputs: Mapping[str, Shape],
    outputs: Iterable[str],
    factors: Mapping[str, Floats] | None = None,
) -> None:
    """Refuse a graph that is not the one of its role.

    Args:
        path: the graph's file.
        role: "vision_encoder", "vision_injector" or "decoder".
        config: the manifest's model.
        inputs: the graph's, with their shapes. A decoder has its cache's besides.
        outputs: likewise.
        factors: an adapter as the role's graph takes it, if the manifest says that it takes one: of any rank.

    Raises:
        InputError: naming the file, what it takes and gives, and what the role does.
    """
    takes, gives = _expected(role, config)
    takes |= {name: _of_any_rank(name, array.shape) for name, array in (factors or {}).items()}
    found = set(inputs), set(outputs)
    if role == "decoder":
        misplaced = found[0] & {"image", "vision_features", "vision_embeds"} - takes.keys()
        right = takes.keys() <= found[0] and gives <= found[1] and not misplaced
    else:
        right = found == (set(takes), gives)
    if not right:
        raise InputError(
            f"{path}: takes {_some(inputs)} and gives {_some(found[1])}; the {role} of the manifest's model takes "
            f"{_some(takes)} and gives {_some(gives)}"
        )
    for name, shape in takes.items():
        there = inputs[name]
        if shape is None or there is None:
            continue
        numbers = [length if type(length) is int and length > 0 else None for length in there]
        if len(numbers) != len(shape) or any(n not in (None, length) for n, length in zip(numbers, shape, strict=True)):
            raise InputError(f"{path}: takes {name} as {list(there)!s:.80}, the manifest's model gives {list(shape)}")


def _of_any_rank(name: str, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
    return (shape[0], None) if name.endswith("A") else (None, shape[1])


def _expected(role: str, config: ModelConfig) -> tuple[dict[str, tuple[int | None, ...] | None], set[str]]:
    vision = config.vision
    assert vision is not None
    if role == "vision_encoder":
        return {"image": (1, vision.image_size, vision.image_size, 3)}, {"vision_features"}
    if role == "vision_injector":
        gives = {"vision_key", "vision_value"} if config.images is None else {"vision_embeds"}
        return {"vision_features": (1, vision.num_tokens, vision.feature_size)}, gives
    embeds: dict[str, tuple[int | None, ...] | None] = {} if config.images is None else {"vision_embeds": None}
    return {"input_ids": None, **embeds}, {"logits"}


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    words = ", ".join("".join(c if c.isprintable() else "?" for c in name[:40]) for name in listed[:MOST_NAMES])
    return (words or "nothing") + (f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else "")
