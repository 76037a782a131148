"""What only training asks about an EmojiScenes picture: a description of everything, and lists about several things.

A long answer teaches more in one pass than an answer of one word: a list of where five things are has five times to
find what the question names. No test asks for them.
"""

from collections.abc import Iterator
from random import Random

from himix_edge.data.dataset import Turn
from himix_edge.data.emoji_pictures import Scene, counts
from himix_edge.data.emoji_questions import CELLS, NUMBERS, SIDES, UNCOUNTED, alike, is_at, plural

WORDINGS = {
    "caption": ("Describe the picture.", "List all that you see.", "What is where in the picture?"),
    "find": ("Where is each of these: {}?", "Say where these are: {}.", "Find these: {}."),
    "numbers": ("How many of each are there: {}?", "Count these: {}.", "Give the number of each: {}."),
    "which": (
        "Which of these are in the picture: {}?", "Which of these do you see: {}?", "Name those that are there: {}.",
    ),
    "around": ("What is around the {}?", "Name the neighbors of the {}.", "What is on each side of the {}?"),
}  # fmt: skip
ASKED = 5  # most things of a list


def caption(scene: Scene, rng: Random) -> Turn:
    """A description of the whole picture, cell by cell."""
    things = sorted(scene.things, key=lambda thing: (thing.row, thing.column))
    parts = [f"{CELLS[thing.row][thing.column]}: {thing.drawing}" for thing in things]
    if scene.sign:
        parts.append(f"sign: {scene.sign}")
    return Turn(rng.choice(WORDINGS["caption"]), ", ".join([*parts, f"background: {scene.background}"]), "caption")


def lists(scene: Scene, rng: Random) -> Iterator[Turn]:
    """Where several things are ("nowhere"), how many ("zero"), which of them there are, and what is around one."""
    found = counts(scene.things)
    cells = {t.name: CELLS[t.row][t.column] for t in scene.things if found[t.name] == 1}

    def ask(skill: str, answers: dict[str, str]) -> Turn:
        listed = ", ".join(f"{name}: {answer}" for name, answer in answers.items())
        return Turn(rng.choice(WORDINGS[skill]).format(", ".join(answers)), listed, skill)

    if cells:
        yield ask("find", {name: cells.get(name, "nowhere") for name in _mixed(list(cells), scene, rng)})
    countable = [name for name in found if name not in UNCOUNTED]
    numbers = {name: NUMBERS[found.get(name, 0)] for name in _mixed(countable, scene, rng) if name not in UNCOUNTED}
    if numbers:
        yield ask("numbers", {plural(name): number for name, number in numbers.items()})
    named = _mixed(list(found), scene, rng)
    there = ", ".join(name for name in named if name in found)
    yield Turn(rng.choice(WORDINGS["which"]).format(", ".join(named)), there or "none", "which")
    if cells and len(scene.things) > 1:
        middle = rng.choice([thing for thing in scene.things if thing.name in cells])
        sides = {side: [t.name for t in scene.things if is_at(t, middle, side)] for side in SIDES}
        answer = ", ".join(f"{side}: {' and '.join(names) or 'nothing'}" for side, names in sides.items())
        yield Turn(rng.choice(WORDINGS["around"]).format(middle.name), answer, "around")


def _mixed(there: list[str], scene: Scene, rng: Random) -> list[str]:
    """Some of these things, and some that the picture does not show, of their kinds and of others."""
    shown = {thing.name for thing in scene.things}
    most = min(len(there), ASKED - 1)
    some = rng.sample(there, rng.randint((most + 1) // 2, most))
    similar = alike(rng.choice(sorted(shown)), scene)
    others = [name for name in scene.known if name not in shown and name not in similar]
    count = rng.randint(1, max(1, min(len(some), ASKED - len(some))))
    absent = rng.sample(similar, min(len(similar), count // 2 + count % 2))
    return rng.sample([*some, *absent, *rng.sample(others, count - len(absent))], len(some) + count)
