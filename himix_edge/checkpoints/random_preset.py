"""A preset at its real size with weights that nobody trained."""

from dataclasses import replace

from tokenizers import AddedToken

from himix_edge.checkpoints.source import Source, random_source
from himix_edge.checkpoints.vlm_text import TAGS
from himix_edge.config import ModelConfig
from himix_edge.image_text import ImageText
from himix_edge.presets import DEFAULT_MODEL, preset, resolve_model
from himix_edge.text import TextProcessor
from himix_edge.vlm_presets import VLMS

MOST_TAGGED = 6  # rows and columns that SmolVLM's tokenizer has tags for
SLOTS = {"internvl": "<IMG_CONTEXT>"}  # by family; others' is <image>
TOKENS = (
    "<image>", "<IMG_CONTEXT>", "<img>", "</img>", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, MOST_TAGGED + 1) for column in range(1, MOST_TAGGED + 1)),
)  # fmt: skip


def random_preset(name: str, tower_name: str | None = None, seed: int = 0) -> Source:
    """The preset called `name`, as `presets.preset` has it, with fresh weights; the words it says mean nothing.

    A vision-language model's text is the shipped nano's with its family's tokens for pictures added, so the token that
    stands for a picture's features has another number than the published tokenizer's.

    Raises:
        InputError: see `preset`.
    """
    config, called = preset(name, tower_name), f"{name}-random"
    if name not in VLMS:
        return random_source(config, called, seed)
    text = _text_with_pictures(VLMS[name].family)
    return random_source(_with_slot_of(config, text), called, seed, text)


def _text_with_pictures(family: str) -> TextProcessor:
    nano = TextProcessor.load(resolve_model(DEFAULT_MODEL))
    nano.tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TOKENS])
    images = ImageText(SLOTS.get(family, "<image>"), nano.template.user[0], "", "", **TAGS[family])
    return TextProcessor(nano.tokenizer, replace(nano.template, image=images))


def _with_slot_of(config: ModelConfig, text: TextProcessor) -> ModelConfig:
    assert config.images is not None
    assert text.template.image is not None
    slot_id = text.tokenizer.token_to_id(text.template.image.slot)
    return replace(config, images=replace(config.images, slot_id=slot_id))
