"""Which part of a model a parameter or a module belongs to, by its name. Every other file asks here."""

from typing import Final, Literal

Part = Literal["tower", "injection", "decoder"]

TOWER: Final = "vision_tower"
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
INJECTIONS = ("connector.", "shared_injection.", "mixer.")  # vanilla's, and HiMix's where layers share or mix
IN_LAYERS = "_img."  # HiMix's own norms, projections and slots' terms, beside those of a decoder layer
ROLES: dict[Part, str] = {"tower": "vision_encoder", "injection": "vision_injector", "decoder": "decoder"}


def part_of(name: str) -> Part:
    """The part that a parameter or module of this name belongs to. A vanilla model's injection is its connector."""
    inside = f"{name}."  # a module is called what its parameters' names begin with
    if inside.startswith(f"{TOWER}."):
        return "tower"
    return "injection" if IN_LAYERS in inside or inside.startswith(INJECTIONS) else "decoder"


def is_table(name: str) -> bool:
    """Whether this is the embedding or the head: a row for each token of the vocabulary."""
    return name.removesuffix(".weight") in (EMBEDDING, HEAD)
