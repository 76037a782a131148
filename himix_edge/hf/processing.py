"""The processor: text to ids by this project's template, pictures to the pixels that the model takes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from himix_edge.checkpoints import open_source
from himix_edge.errors import InputError
from himix_edge.preprocess import load_image
from himix_edge.text import ChatTemplate, TextProcessor


class HimixProcessor(ProcessorMixin):
    """Made by `from_pretrained`, from whatever holds a model of this project.

    Attributes:
        tokenizer: transformers' form of it.
        image_size: S, pixels of a side; None: the model takes no images.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 transformers' own
    tokenizer_class = "PreTrainedTokenizerFast"  # type: ignore[assignment]  # theirs is declared as None
    tokenizer: PreTrainedTokenizerFast

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text: TextProcessor,
        image_size: int | None = None,
        resample: Any = "bilinear",
    ):
        super().__init__(tokenizer)
        self._text, self.image_size, self.resample = text, image_size, resample
        self.chat_template = jinja_template(text.template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> "HimixProcessor":  # type: ignore[override]
        """Open what `himix_edge.load_checkpoint` opens. Raises InputError without tokenizer or chat template."""
        source = open_source(pretrained_model_name_or_path)
        text, vision = source.load_text(), source.config.vision
        source.config.refuse_pictures_in_text("a class of transformers")
        end = text.template.stop[0]
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=text.tokenizer, eos_token=end, pad_token=end, padding_side="right",
            clean_up_tokenization_spaces=False,
        )  # fmt: skip
        if vision is None:
            return cls(tokenizer, text)
        return cls(tokenizer, text, vision.image_size, vision.resample)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **settings: Any) -> None:
        """Write tokenizer.json and chat_template.json, as this project's checkpoints have them."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self._text.save(Path(save_directory))

    def __call__(  # type: ignore[override]  # theirs takes videos and audio, too
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = False,
        add_special_tokens: bool = False,
        videos: None = None,
        audio: None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Rendered conversations (`apply_chat_template`) and a picture for each, or none.

        Args:
            images: for each text a picture (see `himix_edge.preprocess.ImageSource`), alone or in a list of one.
            text: one, or several. A special token that somebody typed is one here, as everywhere in transformers.
            return_tensors: "pt".
            padding: True pads at the end of rows.
            add_special_tokens: False: the template writes them.
            videos: None.
            audio: None.
            settings: as of transformers' tokenizers.

        Returns:
            `input_ids` and `attention_mask` int (B, T), `pixel_values` uint8 (B, S, S, 3).

        Raises:
            InputError: a picture that cannot be read, or another number of pictures than one for each text.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        if videos is not None or audio is not None:
            raise InputError("this model takes text and pictures, no videos and no audio")
        if not texts or return_tensors != "pt":
            raise InputError('give the text, rendered by the chat template, and return_tensors="pt"')
        made = self.tokenizer(
            texts, return_tensors="pt", padding=padding, add_special_tokens=add_special_tokens,
            return_token_type_ids=False, **settings,
        )  # fmt: skip
        data = dict(made)
        if images is not None:
            data["pixel_values"] = torch.from_numpy(self._pixels(images, len(texts)))
        return BatchFeature(data)

    def _pixels(self, images: Any, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if self.image_size is None:
            raise InputError("this model has no vision tower; it takes no images")
        given = list(images) if isinstance(images, list | tuple) else [images]
        each = [list(image) if isinstance(image, list | tuple) else [image] for image in given]
        if count == 1 and len(each) > 1:
            each = [[picture for pictures in each for picture in pictures]]
        if len(each) != count or any(len(pictures) != 1 for pictures in each):
            raise InputError(f"{count} texts and {[len(p) for p in each]} pictures: give one picture for each text")
        return np.concatenate([load_image(pictures[0], self.image_size, self.resample) for pictures in each])


def jinja_template(template: ChatTemplate) -> str:
    """The template as a program of transformers' kind, which renders the same strings."""

    def around(pair: tuple[str, str], said: str = "") -> str:
        before, after = (json.dumps(text, ensure_ascii=False) for text in (pair[0] + said, pair[1]))
        return "{{ " + before + " + words(m) + " + after + " }}"

    words = (
        "{%- macro words(m) -%}{%- if m.content is string -%}{{ m.content | trim }}{%- else -%}"
        "{%- set ns = namespace(text='') -%}{%- for part in m.content -%}{%- if part.type == 'text' -%}"
        "{%- set ns.text = ns.text + ('\\n' if ns.text else '') + part.text -%}{%- endif -%}{%- endfor -%}"
        "{{ ns.text | trim }}{%- endif -%}{%- endmacro -%}"
    )
    bos = "{{ " + json.dumps(template.bos, ensure_ascii=False) + " }}" if template.bos else ""
    default = ""
    if template.default_system and template.system:
        said = json.dumps(template.system[0] + template.default_system + template.system[1], ensure_ascii=False)
        default = "{%- if messages[0].role != 'system' -%}{{ " + said + " }}{%- endif -%}"
    system = around(template.system) if template.system else "{{ raise_exception('no system messages') }}"
    return (
        f"{words}{bos}{default}"
        "{%- for m in messages -%}"
        f"{{%- if m.role == 'user' -%}}{around(template.user)}"
        f"{{%- elif m.role == 'assistant' -%}}{around(template.assistant, template.said)}"
        f"{{%- else -%}}{system}{{%- endif -%}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ "
        + json.dumps(template.assistant[0], ensure_ascii=False)
        + " }}{%- endif -%}"
    )
