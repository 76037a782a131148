"""The configuration: this project's own, whole, inside of transformers'."""

from typing import Any

from transformers import PretrainedConfig

from himix_edge.config import ModelConfig


class HimixConfig(PretrainedConfig):
    """A `ModelConfig` as transformers keeps one.

    Attributes:
        himix: the content of this project's config.json, see `ModelConfig.to_dict`.
    """

    model_type = "himix"

    def __init__(self, himix: dict[str, object] | None = None, **settings: Any):
        """Raises InputError for a configuration that is none. Without one it is an empty frame, for transformers."""
        self.himix = himix or {}
        if himix is not None:
            config = ModelConfig.from_dict(himix, "himix")
            config.refuse_pictures_in_text("a class of transformers")
            decoder = config.decoder
            # what tools of transformers look for
            self.vocab_size, self.hidden_size = decoder.vocab_size, decoder.hidden_size
            self.num_hidden_layers, self.num_attention_heads = decoder.num_hidden_layers, decoder.num_attention_heads
            self.max_position_embeddings = decoder.max_position_embeddings
        # a tied head is one module here, so there is nothing to tie
        super().__init__(**{**settings, "tie_word_embeddings": False})

    @classmethod
    def of(cls, config: ModelConfig) -> "HimixConfig":
        """The same in this form. Raises InputError for a model whose pictures stand in its text."""
        return cls(config.to_dict())

    @property
    def model(self) -> ModelConfig:
        """The configuration in this project's form."""
        return ModelConfig.from_dict(self.himix, "himix")
