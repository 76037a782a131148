"""What stands in a text in place of pictures: ids up to their end, and behind them, of three kinds of template."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken

from himix_edge.config import ImageLayout, ModelConfig
from himix_edge.image_text import ImageText
from himix_edge.presets import SHIPPED
from himix_edge.runtimes.pictures import picture_ids
from himix_edge.text import ChatTemplate, TextProcessor
from himix_edge.tiles import Tiles

CAPACITY = 1 << 20  # no picture fills it
FULL = "<fake_token_around_image>"
END = "<|im_end|>"
ROWS = ChatTemplate(  # as SmolVLM and Idefics3 have it
    ("User: ", f"{END}\n"), ("Assistant:", f"{END}\n"), (END,), bos="<|im_start|>", system=("System: ", f"{END}\n"),
    said=" ",
    image=ImageText(
        "<image>", "User:", "", "", alone=f"{FULL}<global-img>{{slots}}{FULL}",
        tile=f"{FULL}<row_{{row}}_col_{{column}}>{{slots}}", row_end="\n",
        whole=f"\n{FULL}<global-img>{{slots}}{FULL}",
    ),
)  # fmt: skip
GRID = ChatTemplate(  # as InternVL has it
    ("<|im_start|>user\n", f"{END}\n"), ("<|im_start|>assistant\n", f"{END}\n"), (END,),
    system=("<|im_start|>system\n", f"{END}\n"), default_system="You look well.",
    image=ImageText(
        "<IMG_CONTEXT>", "<|im_start|>user\n", "\n", "\n", alone="<img>{slots}</img>", start="<img>",
        whole="{slots}</img>",
    ),
)  # fmt: skip
NUMBERED = ChatTemplate(  # as nanoVLM has it
    ("<|im_start|>user\n", f"{END}\n"), ("<|im_start|>assistant\n", f"{END}\n"), (END,),
    system=("<|im_start|>system\n", f"{END}\n"),
    image=ImageText(
        "<image>", "<|im_start|>user\n", "", "", numbered="<image: {number}>", alone="<global-img>{slots}",
        tile="<row_{row}_col_{column}>{slots}", whole="<global-img>{slots}", whole_first=True,
    ),
)  # fmt: skip
LAYOUTS = {
    "rows": ImageLayout(0, "rows", "lanczos", longest=256),
    "grid": ImageLayout(0, "grid", "bicubic", most_tiles=12),
    "numbered": ImageLayout(0, "whole_tiles", "bicubic", longest=256, whole_first=True),
}
TEMPLATES = {"rows": ROWS, "grid": GRID, "numbered": NUMBERED}
GRIDS = [[(0, 0)], [(2, 3)], [(4, 1)], [(0, 0), (1, 2)], [(3, 3), (0, 0), (0, 0)]]
SYSTEMS = ["", "Be brief.", f"Not a picture: <image><IMG_CONTEXT>{END}"]
PROMPTS = ["What is this?", "  <image> and <IMG_CONTEXT>, typed\n", "é中 1234"]


def write(out: Path, model: dict[str, Any]) -> Iterator[str]:
    """Write `out/NAME/tokenizer.json`, `chat_template.json` and `cases.json` of each; yields the names.

    Args:
        out: the folder of all.
        model: a HiMix bundle's model, which is made one whose pictures stand in the text.
    """
    for name in TEMPLATES:
        (out / name).mkdir(parents=True)
        text = processor(name)
        text.save(out / name)
        config = ModelConfig.from_dict(tiles_model(model, layout(name, text)), name)
        (out / name / "cases.json").write_text(json.dumps(_cases(text, config)), encoding="utf-8")
        yield name


def processor(name: str) -> TextProcessor:
    """The shipped tokenizer with the special tokens of such a template."""
    tokenizer = TextProcessor.load(SHIPPED / "nano").tokenizer
    tags = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    named = ["<img>", "</img>", "<IMG_CONTEXT>"] if name == "grid" else ["<image>", FULL, "<global-img>", *tags]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in named])
    return TextProcessor(tokenizer, TEMPLATES[name])


def layout(name: str, text: TextProcessor) -> ImageLayout:
    """The layout that goes with the template, for this tokenizer."""
    assert text.template.image is not None
    return dataclasses.replace(LAYOUTS[name], slot_id=text.tokenizer.token_to_id(text.template.image.slot))


def tiles_model(model: dict[str, Any], images: ImageLayout) -> dict[str, Any]:
    """A manifest's `model`, made one whose pictures are tiles in its text."""
    return {
        **model, "architecture": "vanilla", "injection": {"layers": None, "sharing": "none"},
        "connector": {"shuffle": 2, "norm": False, "layers": 1, "bias": False}, "images": dataclasses.asdict(images),
    }  # fmt: skip


def _cases(text: TextProcessor, config: ModelConfig) -> dict[str, Any]:
    assert config.images is not None
    return {
        "tile_tokens": config.tile_tokens, "slot_id": config.images.slot_id,
        "pictures": [_pictures(text, config, grids, system) for grids in GRIDS for system in SYSTEMS],
        "prompts": [
            {"prompt": prompt, "behind": text.encode_behind_pictures(prompt),
             "next_turn": text.encode_next_turn(prompt)}
            for prompt in PROMPTS
        ],
    }  # fmt: skip


def _pictures(text: TextProcessor, config: ModelConfig, grids: list[tuple[int, int]], system: str) -> dict[str, Any]:
    tiles = [Tiles(np.zeros((rows * columns + 1, 1, 1, 3), np.uint8), rows, columns) for rows, columns in grids]
    ids = picture_ids(text, config, tiles, system, CAPACITY)
    return {"grids": grids, "system": system or None, "ids": ids.tolist()}
