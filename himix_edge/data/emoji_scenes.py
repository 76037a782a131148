"""EmojiScenes: pictures composed from freely licensed emoji, with questions of the kinds that benchmarks ask.

Every scene is a pure function of (split, number), so a data set of any size needs no disk and is the same everywhere.
Splits: "train" and "test" are alike; each of the others differs from them in one thing: "test-style" is drawn in a
style that no training scene has, "test-unseen" shows things (and words on signs) that none shows, "test-wordings" asks
in wordings that training does not use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from himix_edge.data.dataset import FEW_SUFFIX, Dataset, LazySamples, Sample, Turn
from himix_edge.data.emoji_concepts import COLORS, FEW, KNOWN, UNSEEN, UNSEEN_WORDS, WORDS
from himix_edge.data.emoji_drawings import SIZE, drawings
from himix_edge.errors import InputError

SIDE = 224  # pixels of a rendered scene
GRID = 3  # things stand in a grid of cells, off their centres by some pixels
TRAIN_STYLES, UNSEEN_STYLE = ("noto", "twemoji", "blob", "emojione"), "fluent"
FEW_STYLES = TRAIN_STYLES[:2]
COUNT = {"train": 1_000_000, "test": 1000, "test-style": 1000, "test-unseen": 500, "test-wordings": 1000}
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
            centre = [int((cell + 0.5) * SIDE / GRID) + off
                      for cell, off in zip((thing.column, thing.row), thing.shift, strict=True)]  # fmt: skip
            image.alpha_composite(drawing, tuple(max(0, c - thing.size // 2) for c in centre))
        if self.sign:
            _draw_sign(image, self.sign)
        return image.convert("RGB")


def scene(split: str, number: int, few: bool = False) -> Scene:
    """The split's scene with this number, of all things and styles or `few`. Raises InputError for an unknown split."""
    if split not in COUNT:
        raise InputError(f"emoji-scenes has no split {split!r}; give one of {', '.join(COUNT)}")
    rng = Random(f"{split} {number}")
    style = UNSEEN_STYLE if split == "test-style" else rng.choice(FEW_STYLES if few else TRAIN_STYLES)
    sign = rng.choice(UNSEEN_WORDS if split == "test-unseen" else WORDS)
    has_sign = rng.random() < 0.25
    cells = [(c, r) for r in range(GRID - has_sign) for c in range(GRID)]
    known = sorted(UNSEEN) if split == "test-unseen" else FEW if few else KNOWN
    names = _names(known, rng, len(cells))
    things = []
    for name, cell in zip(names, rng.sample(cells, len(cells)), strict=False):
        color = rng.choice(list(COLORS[name])) if name in COLORS else None
        size = rng.randint(48, SIZE) if len(names) > 1 else rng.randrange(64, 2 * SIZE)
        column, row = cell if len(names) > 1 else (1, 1 - has_sign)
        most = min(6, (SIDE // GRID - 48) // 2)
        things.append(Thing(name, color, column, row, (rng.randint(-most, most), rng.randint(-most, most)), size))
    background, pattern = rng.choice(list(BACKGROUNDS)), rng.choice(PATTERNS)
    return Scene(style, background, pattern, rng.getrandbits(31), tuple(things), sign if has_sign else None, few)


def _names(known: list[str], rng: Random, most: int) -> list[str]:
    """One thing, a few different ones, or several of two or three."""
    form = rng.random()
    if form < 0.2:
        return [rng.choice(known)]
    if form < 0.65:
        return rng.sample(known, rng.randint(2, 5))
    chosen = rng.sample(known, rng.randint(1, 3))
    return [name for name in chosen for _ in range(rng.randint(1, 4))][:most]


def load_emoji_scenes(split: str, count: int | None = None, asked: str = "scenes", few: bool = False) -> Dataset:
    """EmojiScenes, a sample for each scene, drawn when its pixels are asked for.

    Args:
        split: one of COUNT.
        count: scenes; None: as COUNT says.
        asked: "scenes": the questions that tests ask; for training also "captions": one description of all that is
            shown and where, "lists": questions about several things at once, and "presence": only what is there.
        few: show 17 things in place of 145, and in training in two styles, for towers that start from nothing.

    Raises:
        InputError: an unknown split.
    """
    if split not in COUNT:
        raise InputError(f"emoji-{asked} has no split {split!r}; give one of {', '.join(COUNT)}")
    samples = LazySamples(partial(_sample, split, asked, few), range(COUNT[split] if count is None else count))
    styles = "Noto Emoji (Apache-2.0), Twemoji, EmojiOne 2 (CC-BY-4.0), Fluent Emoji 3D (MIT)"
    source, licence = f"EmojiScenes, {split}: {styles}", "Apache-2.0, CC-BY-4.0, MIT"
    return Dataset(f"emoji-{asked}{FEW_SUFFIX * few}", samples, source, licence)


def _sample(split: str, asked: str, few: bool, number: int) -> Sample:
    from himix_edge.data.emoji_lists import caption, lists
    from himix_edge.data.emoji_questions import presence, questions

    shown = scene(split, number, few)
    rng = Random(f"{split} {number} questions")
    turns: Iterable[Turn]
    match asked:
        case "captions":
            turns = [caption(shown, rng)]
        case "lists":
            turns = lists(shown, rng)
        case "presence":
            turns = presence(shown, rng)
        case _:
            turns = questions(shown, rng, split == "test-wordings")
    return Sample(shown, tuple((turn,) for turn in turns))


def _background(shown: Scene) -> Image.Image:
    """The named colour, with a pattern in slightly other shades of it."""
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


def counts(things: Sequence[Thing]) -> dict[str, int]:
    """Name -> how many there are, in order of appearance."""
    found: dict[str, int] = {}
    for thing in things:
        found[thing.name] = found.get(thing.name, 0) + 1
    return found
