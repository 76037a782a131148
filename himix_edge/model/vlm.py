"""The two vision-language models. They differ in one method: how image features become the cache's first slots.

Everything behind that (decoding, training, export, runtimes) is shared: in both, the image's keys and values
depend on the image alone, so both keep them for the next question.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from himix_edge.config import ModelConfig
from himix_edge.model.connector import build_connector
from himix_edge.model.decoder import DecoderStack, KVCache, rotate
from himix_edge.model.injection import SharedInjection
from himix_edge.model.mixer import ImageRope, Mixer
from himix_edge.model.tower import build_tower

VisionRows = list[tuple[Tensor, Tensor]]  # keys and values (B, G, N, h), one pair for each distinct one of an image


class VisionLanguageModel(nn.Module):
    """Base of HiMix and vanilla: tower, decoder, head.

    Call it as `model(input_ids, pixel_values=None, vision_features=None) -> logits (B, T, V)` float32.
    `input_ids` int (B, T); `pixel_values` uint8 (B, S, S, 3) RGB; `vision_features` float (B, N, d_v) in place of
    pixels. With neither, there is no vision segment at all.
    """

    def __init__(self, config: ModelConfig, injected: tuple[int, ...] = ()):
        """Decoder layers in `injected` own a projection of the image's features."""
        super().__init__()
        self.config = config
        self.vision_tower: Any = build_tower(config.vision) if config.vision else None
        slots = config.tile_tokens if config.injection.slots else 0
        self.model = DecoderStack(config.decoder, config.injection_width, injected, slots)
        if not config.decoder.tie_word_embeddings:
            self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self.apply(_initialize)

    def project_out(self, states: Tensor) -> Tensor:
        """Final normed states (..., d) -> logits (..., V), by the tied embedding or `lm_head`."""
        head = self.model.embed_tokens.project if self.config.decoder.tie_word_embeddings else self.lm_head
        logits: Tensor = head(states)
        return logits

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) RGB -> vision features (B, N, d_v). Raises ValueError if the model has no tower."""
        if self.vision_tower is None:
            raise ValueError("this model has no vision tower; pass vision_features")
        features: Tensor = self.vision_tower(pixel_values)
        return features

    def project_image(self, vision_features: Tensor) -> VisionRows:
        """Vision features (B, N, d_v) -> the image's distinct keys and values (B, G, N, h), see `vision_rows`."""
        raise NotImplementedError

    def start(self, rows: VisionRows) -> KVCache:
        """The cache that a text starts from: every layer filled with its row, or empty."""
        key, value = rows[0]
        nothing = (key[:, :, :0].detach(), value[:, :, :0].detach())  # else autograd goes down to the first layer
        layers = [nothing if row is None else rows[row] for row in self.config.vision_rows]
        position = self.config.first_text_position(key.shape[2])
        return KVCache([key for key, _ in layers], [value for _, value in layers], position)

    def inject(self, vision_features: Tensor) -> KVCache:
        """Vision features (B, N, d_v) -> the cache that a text starts from, N slots in every injected layer.

        Raises:
            ValueError: a plain decoder, which takes no image.
        """
        if self.config.vision_hidden_size is None:
            raise ValueError("this model takes no image; himix convert adds a tower and injection weights")
        return self.start(self.project_image(vision_features))

    def hidden(self, input_ids: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Token ids (B, T) behind `past` -> final normed states (B, T, d) and the grown cache."""
        return self.model.run(self.model.embed_tokens(input_ids), past)

    def decode(self, input_ids: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Token ids (B, T) behind `past` -> logits (B, T, V) float32 and the grown cache."""
        states, cache = self.hidden(input_ids, past)
        return self.project_out(states).float(), cache

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, vision_features: Tensor | None = None
    ) -> Tensor:
        if pixel_values is not None:
            vision_features = self.encode_image(pixel_values)
        past = None if vision_features is None else self.inject(vision_features)
        return self.decode(input_ids, past)[0]


class HiMixModel(VisionLanguageModel):
    """HiMix: every layer projects the unchanged features to its own extra keys and values (section 3.2).

    Where `config.injection` mixes, the features become tokens of the decoder's width first, and pass some layers.
    """

    def __init__(self, config: ModelConfig):
        shared, mixing = config.injection.sharing != "none", config.injection.mixing
        super().__init__(config, injected=() if shared else config.projecting_layers)
        self.image_rope: Any = ImageRope(config.decoder)
        if config.vision_hidden_size is None:
            return
        if shared:
            self.shared_injection = SharedInjection(config.decoder, config.vision_hidden_size, config.levels)
            self.shared_injection.apply(_initialize)
        if mixing is not None:
            self.connector = build_connector(config.connector, config.vision_hidden_size, config.decoder.hidden_size)
            self.mixer = Mixer(config.decoder, mixing)
            for module in (self.connector, self.mixer):
                module.apply(_initialize)

    def project_image(self, vision_features: Tensor) -> VisionRows:
        states, rows = self.mix(vision_features)
        if self.config.injection.sharing != "none":
            rows = self.shared_injection(states)
        else:
            rows = rows + [self.model.layers[i].inject(states) for i in self.config.projecting_layers]
        return [(self.place(key), value) for key, value in rows]

    def mix(self, vision_features: Tensor) -> tuple[Tensor, VisionRows]:
        """Features (B, N, d_v) -> what layers project (B, N, width), and the rows of the layers passed on the way."""
        if self.config.injection.mixing is None:
            return vision_features, []
        tokens = self.connector(vision_features)
        states, passed = self.mixer(tokens, self.image_rope(tokens.shape[1], tokens.device))
        return states, [row for layer, row in enumerate(passed) if layer in self.config.injected_layers]

    def place(self, key: Tensor) -> Tensor:
        """Keys (B, G, N, h) at their rotary positions, if they have any: -N..-1, right in front of the text's 0."""
        if self.config.injection.positions == "none":
            return key
        return rotate(key, *self.image_rope(key.shape[2], key.device))


class VanillaModel(VisionLanguageModel):
    """LLaVA-style: a connector makes tokens of the image's features, and all of them go through the decoder.

    In the baseline they come first, so their keys and values do not depend on the text: `inject` is the decoder's
    prefill over the N image tokens. With `config.images` they stand in the text: `input_ids` hold `slot_id` once for
    each of them, `pixel_values` uint8 (n, S, S, 3) are the tiles in their order, and `vision_features` (n, N, d_v).
    In `read` and `decode` SLOT stands for them, so that a `slot_id` that somebody says is a word like another. Where
    pictures' tokens are not the tiles' in their order (`picture_tokens.arrange`), only `read` takes them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        if config.vision_hidden_size is not None:
            hidden = config.decoder.hidden_size
            self.connector = build_connector(config.connector, config.vision_hidden_size, hidden)
            self.connector.apply(_initialize)

    def project_image(self, vision_features: Tensor) -> VisionRows:
        cache = self.model.run(self.connect(vision_features), None)[1]
        return list(zip(cache.key, cache.value, strict=True))

    def connect(self, vision_features: Tensor) -> Tensor:
        """Features (n, N, d_v) of n tiles -> embeddings (n, M, d) for the decoder."""
        embeddings: Tensor = self.connector(vision_features)
        return embeddings

    def read(self, input_ids: Tensor, embeddings: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Ids (1, T) behind `past` -> logits (1, T, V) float32 and the grown cache.

        Where an id is SLOT (`config.images`), the row of `embeddings` (1, T, d) stands in its place.
        """
        x = torch.where(input_ids[..., None] < 0, embeddings, self.model.embed_tokens(input_ids.clamp(min=0)))
        states, cache = self.model.run(x, past)
        return self.project_out(states).float(), cache

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, vision_features: Tensor | None = None
    ) -> Tensor:
        if self.config.images is None or (pixel_values is None and vision_features is None):
            return super().forward(input_ids, pixel_values, vision_features)
        if pixel_values is not None:
            vision_features = self.encode_image(pixel_values)
        if self.config.images.strategy == "anyres":
            raise ValueError("pictures of this model have an order of their own; arrange their tokens and `read` them")
        x: Tensor = self.model.embed_tokens(input_ids)
        slots = input_ids == self.config.images.slot_id
        assert vision_features is not None
        tokens = self.connect(vision_features).flatten(0, 1).to(x.dtype)
        if int(slots.sum()) != len(tokens):
            raise ValueError(f"{int(slots.sum())} image slots in the ids, {len(tokens)} features for them")
        states, _ = self.model.run(x.masked_scatter(slots[..., None], tokens), None)
        return self.project_out(states).float()


def build_model(config: ModelConfig) -> VisionLanguageModel:
    """A freshly initialised model of the configured architecture."""
    models: dict[str, Callable[[ModelConfig], VisionLanguageModel]] = {"himix": HiMixModel, "vanilla": VanillaModel}
    return models[config.architecture](config)


def _initialize(module: nn.Module) -> None:
    """Embeddings: normal, std 0.02. Linears: normal, variance-preserving (std fan_in^-0.5), zero bias."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
