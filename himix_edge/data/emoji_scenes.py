"""EmojiScenes: pictures composed from freely licensed emoji, with questions of the kinds that published tasks ask.

Every scene is a pure function of (split, number), so a data set of any size needs no disk and is the same everywhere.
Splits: "train" and "test" are alike; each of the others differs from them in one thing: "test-style" is drawn in a
style that no training scene has, "test-unseen" shows things (and words on signs) that none shows, "test-wordings" asks
in wordings that training does not use.
"""

from collections.abc import Iterable
from functools import partial
from random import Random

from himix_edge.data.dataset import Dataset, LazySamples, Sample, Turn
from himix_edge.data.emoji_concepts import COLORS, FEW, KNOWN, UNSEEN, UNSEEN_WORDS, WORDS
from himix_edge.data.emoji_drawings import SIZE
from himix_edge.data.emoji_lists import caption, lists
from himix_edge.data.emoji_pictures import BACKGROUNDS, GRID, PATTERNS, SIDE, Scene, Thing
from himix_edge.data.emoji_questions import presence, questions
from himix_edge.errors import InputError

DATASETS = ("emoji-scenes", "emoji-captions", "emoji-lists", "emoji-presence")
FEW_SUFFIX = "-few"  # of their variants that show few things
TRAIN_STYLES, UNSEEN_STYLE = ("noto", "twemoji", "blob", "emojione"), "fluent"
FEW_STYLES = TRAIN_STYLES[:2]
COUNT = {"train": 1_000_000, "test": 1000, "test-style": 1000, "test-unseen": 500, "test-wordings": 1000}


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
    source, license = f"EmojiScenes, {split}: {styles}", "Apache-2.0, CC-BY-4.0, MIT"
    return Dataset(f"emoji-{asked}{FEW_SUFFIX * few}", samples, source, license)


def _sample(split: str, asked: str, few: bool, number: int) -> Sample:
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
