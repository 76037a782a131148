"""The texts around pictures that vision-language models are asked with, see `vlm_config`."""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from himix_edge.checkpoints.chat_templates import declarative, folder_jinja, token_text
from himix_edge.checkpoints.start_token import start_token, with_start_token
from himix_edge.checkpoints.template_solving import solve_pictures
from himix_edge.config import ModelConfig
from himix_edge.image_text import Tags
from himix_edge.text import ChatTemplate

FAKE = "<fake_token_around_image>"
_IDEFICS3: Tags = {
    "alone": f"{FAKE}<global-img>{{slots}}{FAKE}",
    "tile": f"{FAKE}<row_{{row}}_col_{{column}}>{{slots}}",
    "row_end": "\n",
    "whole": f"\n{FAKE}<global-img>{{slots}}{FAKE}",
}
TAGS: dict[str, Tags] = {  # by model_type; as transformers' processors write them
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
    "llava": {},
    "fast_vlm": {},
    "llava_next": {},
    "llava_onevision": {},
    "internvl": {"alone": "<img>{slots}</img>", "start": "<img>", "whole": "{slots}</img>"},
}


def vlm_template(folder: Path, raw: dict[str, object], config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of a folder, with what it writes for pictures.

    Raises:
        InputError: there is none, or one that is not supported; see `declarative` and `solve_pictures`.
        BackendMissing: jinja2 is not installed.
    """
    assert config.images is not None
    jinja = folder_jinja(folder)
    template = declarative(jinja, tokenizer)
    slot = token_text(tokenizer, config.images.slot_id, f"{folder / 'config.json'}: image_token_id")
    images = solve_pictures(jinja, template, slot, jinja.where)
    template = with_start_token(template, start_token(folder), tokenizer, str(folder))
    return replace(template, image=replace(images, **TAGS[str(raw["model_type"])]))
