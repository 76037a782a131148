"""A vision-language model as transformers reads it from its folder: what a converted one is compared with.

Its own class and its own processor, in float32, on the PIL path. Two things of others are set right while it works, as
docs/vision-language-models.md says, and named in `TheirModel.notes`.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from himix_edge import extras
from himix_edge.errors import BackendMissing, InputError, one_line

FLOAT32_POSITIONS = ("idefics3", "smolvlm")  # families whose patches transformers' issue 41190 moves in float32
NEEDED = ("torchvision", "num2words")  # what processors ask for that transformers does not bring


@dataclass(frozen=True)
class TheirAnswer:
    """What transformers makes of pictures and a question.

    Attributes:
        ids: int (T,), the whole prompt.
        pixels: float32 (n, 3, S, S), normalized, of all tiles; None without pictures.
        logits: float32 (t, V), of the last position of the prompt and of each token but the last.
        tokens: t of them, greedy; ends of answers are tokens like others.
    """

    ids: list[int]
    pixels: NDArray[np.float32] | None
    logits: NDArray[np.float32]
    tokens: list[int]


class TheirModel:
    """An opened folder; see the module."""

    def __init__(self, folder: Path, family: str):
        """Load class and processor.

        Args:
            folder: a local Hugging Face folder.
            family: its `model_type`.

        Raises:
            InputError: transformers has no class for it, or cannot read the folder.
            BackendMissing: transformers, or a package that its processor needs, is not installed.
        """
        with extras.needed("transformers", extras.CONVERT):
            import transformers
        self.family, self.version = family, str(transformers.__version__)
        self.processor: Any = self._loaded(transformers.AutoProcessor, folder, use_fast=False)
        model, found = self._loaded(
            transformers.AutoModelForImageTextToText, folder, dtype=torch.float32, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"]):  # of another layout: it would go on with random ones
            raise InputError(
                f"{folder}: {type(model).__name__} of transformers {self.version} does not find {missing[0]} and "
                f"{len(missing) - 1} other tensors in it, so there is nothing to compare with"
            )
        self.model: Any = model.eval()
        self.model.generation_config = transformers.GenerationConfig()  # no ends, no penalties: all tokens are greedy

    def _loaded(self, kind: Any, folder: Path, **settings: object) -> Any:
        try:
            return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **settings)
        except ImportError as error:
            missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
            if not missing:
                raise InputError(f"{folder}: {kind.__name__} of transformers {self.version}: {_why(error)}") from None
            raise BackendMissing(f"{missing[0]} (for the {self.family} processor)", extras.CHECK) from None
        except Exception as error:  # whatever a folder that is not theirs makes of it
            raise InputError(
                f"{folder}: {kind.__name__} of transformers {self.version} does not read it, so there is nothing to "
                f"compare with: {_why(error)}"
            ) from None

    @property
    def names(self) -> str:
        """The class and the processor that answered."""
        return f"{type(self.model).__name__} and {type(self.processor).__name__} of transformers {self.version}"

    @property
    def notes(self) -> list[str]:
        """What is set right while it works."""
        notes = []
        if self.family in FLOAT32_POSITIONS:
            notes.append(
                "patches of their tower are placed as in bfloat16: in float32 transformers from 4.55.1 on places them "
                "one row and column off (its issue 41190)"
            )
        if _vertical_first():
            notes.append(f"Pillow {PIL.__version__} resizes horizontally first, as every version before 13")
        return notes

    def pixels(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Tiles (n, 3, S, S) of pictures, as the processor cuts them."""
        with set_right(self.family):
            found = self.processor(text=self._text("?", len(pictures)), images=list(pictures), return_tensors="pt")
        return _tiles(found["pixel_values"])

    @torch.no_grad()
    def answer(self, question: str, pictures: Sequence[Image.Image], count: int) -> TheirAnswer:
        """`count` greedy tokens, and the logits that they come from.

        Raises:
            InputError: the processor or the model fails on it.
        """
        try:
            with set_right(self.family):
                text = self._text(question, len(pictures))
                inputs = dict(self.processor(text=text, images=list(pictures) or None, return_tensors="pt"))
                inputs.pop("token_type_ids", None)  # some tokenizers', and no decoder's
                said = self.model.generate(
                    **inputs, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True
                )
        except Exception as error:  # whatever their code raises
            raise InputError(f"{self.names} fail on {len(pictures)} pictures: {_why(error)}") from None
        ids = inputs["input_ids"][0].tolist()
        logits = torch.cat([each.float() for each in said.logits]).numpy()
        pixels = _tiles(inputs["pixel_values"]) if pictures else None
        return TheirAnswer(ids, pixels, logits, said.sequences[0, len(ids) :].tolist())

    def _text(self, question: str, pictures: int) -> str:
        content = [*[{"type": "image"}] * pictures, {"type": "text", "text": question}]
        asked = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        return text


def _tiles(pixels: torch.Tensor) -> NDArray[np.float32]:
    return pixels.float().reshape(-1, *pixels.shape[-3:]).numpy()


def _why(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__


def _vertical_first() -> bool:
    return int(PIL.__version__.partition(".")[0]) >= 13


@contextlib.contextmanager
def set_right(family: str) -> Iterator[None]:
    """While it lasts, Pillow resizes horizontally first, and a float32 tower of `family` places patches rightly."""
    resize, bucketize = Image.Image.resize, torch.bucketize

    def horizontal_first(image: Image.Image, size: tuple[int, int], *rest: Any, **more: Any) -> Image.Image:
        return resize(resize(image, (size[0], image.height), *rest, **more), size, *rest, **more)

    def in_bfloat16(values: torch.Tensor, edges: torch.Tensor, **more: Any) -> torch.Tensor:
        return bucketize(values.bfloat16().float(), edges, **more)

    with contextlib.ExitStack() as undo:
        if _vertical_first():
            undo.callback(setattr, Image.Image, "resize", resize)
            setattr(Image.Image, "resize", horizontal_first)  # noqa: B010 (mypy knows no other method there)
        if family in FLOAT32_POSITIONS:
            undo.callback(setattr, torch, "bucketize", bucketize)
            setattr(torch, "bucketize", in_bfloat16)  # noqa: B010
        yield
