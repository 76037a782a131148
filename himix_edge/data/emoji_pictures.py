"""The pictures of EmojiScenes: things in a grid of cells on a background, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from himix_edge.data.emoji_concepts import FEW, KNOWN
from himix_edge.data.emoji_drawings import drawings

SIDE = 224  # pixels of a rendered scene
GRID = 3  # things stand in a grid of cells, off their centres by some pixels
BACKGROUNDS = {  # colours that a question may ask for
    "white": (250, 250, 250), "gray": (170, 170, 170), "pink": (250, 200, 215), "blue": (150, 190, 235),
    "green": (165, 215, 160), "yellow": (250, 235, 160), "purple": (205, 180, 230), "brown": (200, 165, 130),
}  # fmt: skip
PATTERNS = ("plain", "gradient", "stripes", "dots", "noise")


@dataclass(frozen=True)
class Thing:
    """One drawing: its name ("dog", "heart"), its colour if it has one, and its cell (0 to 2) in the grid."""

    name: str
    color: str | None
    column: int
    row: int
    shift: tuple[int, int]
    size: int

    @property
    def drawing(self) -> str:
        return f"{self.color} {self.name}" if self.color else self.name


@dataclass(frozen=True)
class Scene:
    """A picture to be drawn: things on a background, all in one style, and a sign with a word in the lowest row."""

    style: str
    background: str
    pattern: str
    seed: int
    things: tuple[Thing, ...]
    sign: str | None
    few: bool = False

    @property
    def known(self) -> list[str]:
        """All things that pictures like this one show in training."""
        return FEW if self.few else KNOWN

    def render(self) -> Image.Image:
        """RGB, SIDE x SIDE."""
        image = _background(self).convert("RGBA")
        for thing in self.things:
            drawing = drawings(self.style)[thing.drawing].resize((thing.size, thing.size), Image.Resampling.BICUBIC)
            center = [int((cell + 0.5) * SIDE / GRID) + off
                      for cell, off in zip((thing.column, thing.row), thing.shift, strict=True)]  # fmt: skip
            image.alpha_composite(drawing, tuple(max(0, c - thing.size // 2) for c in center))
        if self.sign:
            _draw_sign(image, self.sign)
        return image.convert("RGB")


def counts(things: Sequence[Thing]) -> dict[str, int]:
    """Name -> how many there are, in order of appearance."""
    found: dict[str, int] = {}
    for thing in things:
        found[thing.name] = found.get(thing.name, 0) + 1
    return found


def _background(shown: Scene) -> Image.Image:
    """The named color, with a pattern in slightly other shades of it."""
    rng = np.random.default_rng(shown.seed)
    x = np.arange(SIDE, dtype=np.float32)[None] / SIDE
    y, shade = x.T, np.zeros((SIDE, SIDE), np.float32)
    if shown.pattern == "gradient":
        shade += (x if rng.random() < 0.5 else y) - 0.5
    elif shown.pattern == "stripes":
        shade += np.sign(np.sin(2 * np.pi * rng.uniform(3, 10) * (x + rng.choice([-1, 0, 1]) * y))) / 2
    elif shown.pattern == "dots":
        n = rng.uniform(4, 10)
        shade += ((x * n % 1 - 0.5) ** 2 + (y * n % 1 - 0.5) ** 2 < 0.06) - np.float32(0.5)
    elif shown.pattern == "noise":
        shade += rng.standard_normal((SIDE, SIDE), np.float32) * 0.4
    planes = [np.clip(level + 24 * shade, 0, 255).astype(np.uint8) for level in BACKGROUNDS[shown.background]]
    return Image.fromarray(np.stack(planes, axis=-1))


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own, Aileron Regular (CC0)


def _draw_sign(image: Image.Image, word: str) -> None:
    """A board with a word in the middle of the lowest row."""
    draw, font = ImageDraw.Draw(image), _font(34)
    left, top, right, bottom = draw.textbbox((SIDE // 2, SIDE * 5 // 6), word, font=font, anchor="mm")
    draw.rounded_rectangle((left - 10, top - 8, right + 10, bottom + 8), 6, (30, 70, 130), (255, 255, 255), 3)
    draw.text((SIDE // 2, SIDE * 5 // 6), word, (255, 255, 255), font=font, anchor="mm")
