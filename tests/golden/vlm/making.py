"""Goldens of families whose code cannot be imported in a test: shared by the scripts that make them and the tests.

A golden is a folder: config.json as the family writes it, golden.json (the tensors' names and shapes, questions, ids,
tokens) and golden.safetensors (pixels, logits). Weights are not stored: `weights` gives the same numbers to both.

    python -m tests.golden.vlm.make_nanovlm PATH_OF_THEIR_CHECKOUT
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from himix_edge.presets import resolve_model

HERE = Path(__file__).parent
SIDE = 32
LAST = 6  # positions of which logits are kept
SPREAD = {1: 0.05, 2: 0.08}  # of a tensor's numbers, by its dimensions


def numbers(name: str, shape: list[int]) -> torch.Tensor:
    """A tensor's values, told by its name: gains are around 1, variances positive."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    values = torch.from_numpy(np.atleast_1d(noise * SPREAD.get(len(shape), 0.1))).reshape(shape)
    if name.endswith("running_var"):
        return values.abs() + 0.5
    gain = name.endswith("weight") and len(shape) == 1
    return values + 1 if gain else values


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The whole state, in float32."""
    return {name: numbers(name, shape) for name, shape in shapes.items()}


def picture(width: int, height: int) -> Image.Image:
    """Noise, the same for the same width."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def horizontal_first() -> None:
    """Make Pillow resize the horizontal way first, as all versions before 13 do."""
    resize = Image.Image.resize

    def patched(image: Image.Image, size: tuple[int, int], *rest: object, **more: object) -> Image.Image:
        return resize(resize(image, (size[0], image.height), *rest, **more), size, *rest, **more)

    Image.Image.resize = patched


def nano_tokenizer(
    tokens: list[str], bos: str | None = None, eos: str = "<|im_end|>"
) -> transformers.PreTrainedTokenizerFast:
    """The shipped nano's tokenizer with a family's special tokens; `bos` stands in front of every text."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(resolve_model("nano") / "tokenizer.json"), eos_token=eos, bos_token=bos,
        pad_token="<|im_end|>", additional_special_tokens=tokens,
    )  # fmt: skip
    if bos is not None:
        pair = (bos, tokenizer.convert_tokens_to_ids(bos))
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[pair])
    return tokenizer


@dataclass
class Question:
    """A question about pictures, what their code makes of it, and 32 greedy tokens."""

    shapes: list[list[int]]
    words: str
    ids: list[int] = field(default_factory=list)  # a feature's is `slot`
    tokens: list[int] = field(default_factory=list)
    system: str = ""


@dataclass
class Golden:
    """A family's golden, see the module's docstring; `arrays` has pixels WxH as uint8 tiles and `logits_i`."""

    name: str
    config: dict
    shapes: dict[str, list[int]]
    slot: int
    questions: list[Question]
    arrays: dict[str, torch.Tensor]

    @property
    def folder(self) -> Path:
        return HERE / self.name

    def save(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        described = {
            "slot": self.slot, "shapes": self.shapes, "questions": [vars(question) for question in self.questions],
        }  # fmt: skip
        (self.folder / "golden.json").write_text(json.dumps(described) + "\n")
        save_file({name: array.contiguous() for name, array in self.arrays.items()}, self.folder / "golden.safetensors")

    @classmethod
    def load(cls, name: str) -> "Golden":
        described = json.loads((HERE / name / "golden.json").read_text())
        questions = [Question(**question) for question in described["questions"]]
        config = json.loads((HERE / name / "config.json").read_text())
        arrays = load_file(HERE / name / "golden.safetensors")
        return cls(name, config, described["shapes"], described["slot"], questions, arrays)
