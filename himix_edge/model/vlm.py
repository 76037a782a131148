"""The two vision-language models. They differ in one method: how image features become the cache's first slots.

Everything behind that (decoding, training, export, runtimes) is shared: in both, the image's keys and values
depend on the image alone, so both keep them for the next question.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.config import ModelConfig
from himix_edge.model.decoder import DecoderStack, KVCache
from himix_edge.model.vision import VisionTower


class VisionLanguageModel(nn.Module):
    """Base of HiMix and vanilla: tower, decoder, head.

    Call it as `model(input_ids, pixel_values=None, vision_features=None) -> logits (B, T, V)` float32.
    `input_ids` int (B, T); `pixel_values` uint8 (B, S, S, 3) RGB; `vision_features` float (B, N, d_v) in place of
    pixels. With neither, there is no vision segment at all.
    """

    def __init__(self, config: ModelConfig, vision_size: int | None):
        super().__init__()
        self.config = config
        self.vision_tower: VisionTower | None = VisionTower(config.vision) if config.vision else None
        self.model = DecoderStack(config.decoder, vision_size)
        if not config.decoder.tie_word_embeddings:
            self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self.apply(_initialise)

    @property
    def head_weight(self) -> Tensor:
        """(V, d): the tied embedding or `lm_head`."""
        tied = self.config.decoder.tie_word_embeddings
        return self.model.embed_tokens.weight if tied else self.lm_head.weight

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) RGB -> vision features (B, N, d_v). Raises ValueError if the model has no tower."""
        if self.vision_tower is None:
            raise ValueError("this model has no vision tower; pass vision_features")
        features: Tensor = self.vision_tower(pixel_values)
        return features

    def inject(self, vision_features: Tensor) -> KVCache:
        """Vision features (B, N, d_v) -> the cache that a text starts from, N slots in every layer."""
        raise NotImplementedError

    def hidden(self, input_ids: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Token ids (B, T) behind `past` -> final normed states (B, T, d) and the grown cache."""
        return self.model.run(self.model.embed_tokens(input_ids), past)

    def decode(self, input_ids: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Token ids (B, T) behind `past` -> logits (B, T, V) float32 and the grown cache."""
        states, cache = self.hidden(input_ids, past)
        return F.linear(states, self.head_weight).float(), cache

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, vision_features: Tensor | None = None
    ) -> Tensor:
        if pixel_values is not None:
            vision_features = self.encode_image(pixel_values)
        past = None if vision_features is None else self.inject(vision_features)
        return self.decode(input_ids, past)[0]


class HiMixModel(VisionLanguageModel):
    """HiMix: every layer projects the unchanged features to its own extra keys and values (section 3.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, vision_size=config.vision_hidden_size)

    def inject(self, vision_features: Tensor) -> KVCache:
        pairs = [layer.inject(vision_features) for layer in self.model.layers]
        return KVCache([key for key, _ in pairs], [value for _, value in pairs], position=0)


class VanillaModel(VisionLanguageModel):
    """LLaVA-style baseline: a two-layer MLP connector, image tokens in front of the text, all through the decoder.

    Attention is causal and the image comes first, so its keys and values do not depend on the text: `inject` is
    the decoder's prefill over the N image tokens.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config, vision_size=None)
        hidden = config.decoder.hidden_size
        self.connector = nn.Sequential(
            nn.Linear(config.vision_hidden_size, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.connector.apply(_initialise)

    def inject(self, vision_features: Tensor) -> KVCache:
        return self.model.run(self.connector(vision_features), None)[1]


def build_model(config: ModelConfig) -> VisionLanguageModel:
    """A freshly initialised model of the configured architecture."""
    models: dict[str, Callable[[ModelConfig], VisionLanguageModel]] = {"himix": HiMixModel, "vanilla": VanillaModel}
    return models[config.architecture](config)


def _initialise(module: nn.Module) -> None:
    """Embeddings: normal, std 0.02. Linears: normal, variance-preserving (std fan_in^-0.5), zero bias."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
