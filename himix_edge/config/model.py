"""A whole model's configuration: decoder, tower, and how the image enters the decoder.

The decoder's fields sit at the top level of config.json, so that the authors' released configs and those of plain
decoders are read as they are. A plain one (no vision width anywhere) is a decoder without any injection.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from himix_edge.config.connector import Connector
from himix_edge.config.decoder import DecoderConfig, decoder_fields
from himix_edge.config.images import ImageLayout
from himix_edge.config.injection import Injection
from himix_edge.config.vision import VisionConfig
from himix_edge.errors import InputError
from himix_edge.reading import refuse_absurd, validated

TAG_TOKENS = 16  # around a tile, at most
MAX_PARAMETERS = 1 << 40  # a thousand times more than the largest model that is published


@dataclass(frozen=True)
class ModelConfig:
    """A vision-language model: `himix` (mixture attention) or `vanilla` (LLaVA-style prefix) on one decoder.

    Attributes:
        connector: of a vanilla model, and of one whose injection mixes.
        images: of a vanilla model whose pictures stand in the text, in any number of tiles; None: the image's features
            are the first tokens of all.
    """

    architecture: Literal["himix", "vanilla"]
    decoder: DecoderConfig
    vision_hidden_size: int | None = None  # d_v; None: a plain decoder that takes no image
    vision: VisionConfig | None = None
    injection: Injection = field(default_factory=Injection)
    connector: Connector = field(default_factory=Connector)
    images: ImageLayout | None = None

    @property
    def parameters(self) -> int:
        """About how many numbers the model holds: those of its matrices."""
        d_v, decoder = self.vision_hidden_size or 0, self.decoder
        wide = d_v * self.connector.shuffle**2
        connector = decoder.hidden_size * (wide + decoder.hidden_size * (self.connector.layers - 1))
        projections = 2 * self.injection_width * decoder.kv_size * len(self.projecting_layers)
        mixing = self.injection.mixing
        if self.architecture == "vanilla":
            image = connector
        elif mixing is None:
            image = projections
        else:
            image = projections + connector + mixing * decoder.layer_parameters
        return decoder.parameters + image + (self.vision.parameters if self.vision else 0)

    @property
    def levels(self) -> int:
        """How many distinct feature levels are injected: the tower's if `sharing` is "levels", else 1."""
        if self.injection.sharing != "levels":
            return 1
        return len(getattr(self.vision, "feature_layers", (-1,)))

    @property
    def injected_layers(self) -> tuple[int, ...]:
        """Decoder layers whose cache starts with vision slots."""
        every = tuple(range(self.decoder.num_hidden_layers))
        if self.vision_hidden_size is None:
            return ()
        if self.architecture == "vanilla" or self.injection.layers is None:
            return every
        return self.injection.layers

    @property
    def projecting_layers(self) -> tuple[int, ...]:
        """Decoder layers with an injection that is a projection; those below `injection.mixing` have theirs made."""
        return tuple(layer for layer in self.injected_layers if layer >= (self.injection.mixing or 0))

    @property
    def injection_width(self) -> int:
        """Width of what the layers project: the tower's features, or states of the decoder if the injection mixes."""
        return (self.vision_hidden_size or 0) if self.injection.mixing is None else self.decoder.hidden_size

    @property
    def vision_rows(self) -> tuple[int | None, ...]:
        """For each decoder layer, which row of `vision_key` (I, G, N, h) it starts its cache with; None: of none."""
        injected = self.injected_layers
        rows: list[int | None] = [None] * self.decoder.num_hidden_layers
        for i, layer in enumerate(injected):
            shared = self.architecture == "himix" and self.injection.sharing != "none"
            rows[layer] = i * self.levels // len(injected) if shared else i
        return tuple(rows)

    @property
    def layers_without_image(self) -> tuple[int, ...]:
        """Decoder layers whose cache starts empty: the text alone passes through them."""
        return tuple(layer for layer, row in enumerate(self.vision_rows) if row is None)

    @property
    def num_vision_rows(self) -> int:
        """I, the distinct keys and values that an image has: L unless layers share or lack them."""
        return len({row for row in self.vision_rows if row is not None})

    def __post_init__(self) -> None:
        if self.vision and self.vision.feature_size != self.vision_hidden_size:
            raise ValueError(
                f"vision_hidden_size ({self.vision_hidden_size}) contradicts "
                f"the tower's feature size ({self.vision.feature_size})"
            )
        self.injection.check(self.decoder.num_hidden_layers)
        if self.architecture == "vanilla" and self.injection != Injection():
            raise ValueError("injection settings apply to the himix architecture only")
        if self.architecture == "himix" and self.images is not None:
            raise ValueError("images apply to the vanilla architecture only")
        if self.architecture == "himix" and self.connector != Connector() and self.injection.mixing is None:
            raise ValueError("connector applies to the vanilla architecture, and to an injection that mixes")
        if self.injection.slots and self.vision is None:
            raise ValueError("injection.slots needs vision_config, which says how many there are")
        if self.levels > len(self.injected_layers) > 0:
            raise ValueError(f"{self.levels} feature levels for {len(self.injected_layers)} injected layers")
        self._check_connector()

    def _check_connector(self) -> None:
        """Raises ValueError for a connector or pictures in the text that contradict each other or the tower."""
        if self.images is not None and self.images.slot_id >= self.decoder.vocab_size:
            raise ValueError(f"images.slot_id ({self.images.slot_id}) has no row in the embedding")
        grid = getattr(self.vision, "grid", 0)
        if self.connector.shuffle > 1 and (not grid or grid % self.connector.shuffle or self.features != grid**2):
            raise ValueError(f"connector.shuffle ({self.connector.shuffle}) must divide the {grid} features of a side")
        anyres = self.images is not None and self.images.strategy == "anyres"
        if anyres != self.connector.newline:
            raise ValueError("connector.newline belongs to pictures of the strategy anyres, and they need it")
        if anyres and (self.connector.shuffle > 1 or self.connector.pool > 1 or self.features != grid**2):
            raise ValueError(f"anyres needs a square grid of features, not {self.features} of {grid} a side")
        of_grid = self.connector.pool > 1 or self.connector.positions
        if of_grid and (
            not grid or grid % self.connector.pool or self.features != grid**2 or self.connector.shuffle > 1
        ):
            raise ValueError(f"connector.pool ({self.connector.pool}) must divide the {grid} features of a side")
        if self.images is not None and self.images.strategy == "whole_tiles" and self.vision is not None:
            longest, side = self.images.longest, self.vision.image_size
            if longest % side:
                raise ValueError(f"images.longest ({longest}) is not in whole tiles of {side}")

    @property
    def features(self) -> int:
        """N, the tower's features of one image or tile."""
        return self.vision.num_tokens if self.vision else 0

    @property
    def tile_tokens(self) -> int:
        """M, the embeddings that the connector makes of one image or tile; without a connector its features."""
        return self.connector.tokens(self.features)

    @property
    def picture_slots(self) -> int:
        """About the most cache slots that one picture takes in the text, tags included; 0: none stands in it."""
        if self.images is None or self.vision is None:
            return 0
        return self.images.most_tiles_of_one(self.vision.image_size) * (self.tile_tokens + TAG_TOKENS)

    def refuse_pictures_in_text(self, what: str) -> None:
        """Raises InputError if pictures stand in this model's text, which `what` does not take."""
        if self.images is not None:
            raise InputError(
                f"{what} does not take a model whose pictures are tiles in its text (SmolVLM, LLaVA, InternVL) yet; "
                "himix run, eval and export do"
            )

    def picture_in_front(self, what: str) -> "ModelConfig":
        """A vanilla model with its image in front of the text; of one whose picture is one tile in it: as if it were.

        The picture is then squashed into the square, by the same filter. Raises InputError, saying `what` does not take
        it, for a model whose picture may be several tiles.
        """
        if self.images is None or self.vision is None:
            return self
        tiles = self.images.most_tiles_of_one(self.vision.image_size)
        if tiles > 1 or self.images.strategy == "anyres":
            raise InputError(
                f"{what}: a picture of this model is up to {tiles} tiles ({self.images.strategy}); HiMix takes one, as "
                "LLaVA 1.5 and FastVLM do"
            )
        method = self.images.filter
        vision = self.vision if method == "lanczos" else dataclasses.replace(self.vision, resample=method)
        return dataclasses.replace(self, images=None, vision=vision)

    def first_text_position(self, vision_tokens: int) -> int:
        """Rotary position of the first text token behind `vision_tokens` cache slots.

        HiMix's have no position, or those in front of 0.
        """
        return vision_tokens if self.architecture == "vanilla" else 0

    @staticmethod
    def from_dict(raw: object, where: str = "config") -> "ModelConfig":
        """Validate a config.json's content. Raises InputError naming `where` and the offending field."""
        if not isinstance(raw, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(raw).__name__}")
        model = {
            "architecture": raw.get("architecture", "himix"),
            "decoder": decoder_fields(raw, where),
            "vision": raw.get("vision_config"),
            "vision_hidden_size": raw.get("vision_hidden_size"),
            "injection": raw.get("injection") or {},
            "connector": raw.get("connector") or {},
            "images": raw.get("images"),
        }
        refuse_absurd({name: model[name] for name in ("decoder", "vision", "vision_hidden_size")}, where)
        config = validated(ModelConfig, model, where)
        if config.parameters > MAX_PARAMETERS:
            raise InputError(f"{where}: sizes of a model with {config.parameters:.1e} parameters; refused")
        return config

    def to_dict(self) -> dict[str, object]:
        """The content of config.json, the inverse of `from_dict`."""
        return {
            "architecture": self.architecture,
            **dataclasses.asdict(self.decoder),
            "vision_hidden_size": self.vision_hidden_size,
            "vision_config": dataclasses.asdict(self.vision) if self.vision else None,
            "injection": self.injection.to_dict(),
            **({"connector": dataclasses.asdict(self.connector)} if self.connector != Connector() else {}),
            **({"images": dataclasses.asdict(self.images)} if self.images else {}),
        }
