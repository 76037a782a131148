"""How an image enters a HiMix decoder: into which layers, through what, and at which positions."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from himix_edge.config.vision import STRICT

MOST_LAYERS = 1024


@dataclass(frozen=True)
class Injection:
    """Which layers see the image, and how their keys and values are made of its features (paper Fig. 4, follow-ups).

    Attributes:
        layers: decoder layers with injection; None: all.
        sharing: "none": a projection per layer, the paper's HiMix. "uniform": one projection for all layers.
            "levels": one connector for each of the tower's feature levels and one projection shared by all; the
            injected layers are split evenly, the first level feeding the first of them.
        positions: "none": the image's keys are not rotated, as in the paper. "sequence": they are, as if the image were
            the N tokens in front of the text; its rotary positions are -N..-1, as the text's count from 0 either way.
        mixing: None: every layer projects the tower's features, as in the paper. k: the features pass the connector and
            k decoder layers of the injector's own, which gives those layers' keys and values on the way; later layers
            project the states behind them.
        slots: whether each projecting layer has a key and a value of its own to add in each of the N slots.
    """

    layers: tuple[int, ...] | None = None
    sharing: Literal["none", "uniform", "levels"] = "none"
    positions: Literal["none", "sequence"] = "none"
    mixing: Annotated[int, Field(ge=0, le=MOST_LAYERS)] | None = None
    slots: bool = False
    __pydantic_config__ = STRICT

    def check(self, decoder_layers: int) -> None:
        """Raises ValueError for settings that contradict each other or a decoder of so many layers."""
        layers, mixing = self.layers, self.mixing
        if layers is not None and (
            not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= decoder_layers
        ):
            raise ValueError(f"injection.layers must be rising numbers in 0..{decoder_layers - 1}, not {list(layers)}")
        if self.sharing != "none" and (mixing is not None or self.slots):
            raise ValueError("injection.mixing and injection.slots belong to layers with projections of their own")
        last = layers[-1] if layers is not None else decoder_layers - 1
        if mixing is not None and mixing > last + 1:
            raise ValueError(f"injection.mixing ({mixing}) goes beyond layer {last}, the last that sees the image")

    def to_dict(self) -> dict[str, object]:
        """The content of config.json's `injection`; what is as it was before a setting existed is left out."""
        added = ("positions", "mixing", "slots")
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in added or value != getattr(PAPERS, name)}


PAPERS = Injection()
