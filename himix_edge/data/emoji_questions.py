"""Questions about an EmojiScenes picture, each after a kind that a published task asks.

name, color, kind, count, compare, relation, place (GQA), read (TextVQA), exists and absent (POPE: a thing that is
there, a random one, and one of a kind that is there), statement (MME: yes or no), choice (MMMU: a letter).
"""

from collections.abc import Callable, Iterator
from random import Random

from himix_edge.data.dataset import Turn
from himix_edge.data.emoji_concepts import COLORS, KINDS, kind_of
from himix_edge.data.emoji_pictures import Scene, Thing, counts

# skill -> wordings of training, and those that only tests use
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (
        ("What is in the picture?", "What is this?", "What do you see?", "Name the thing in the image.",
         "What does the photo show?", "What am I looking at?"),
        ("Which thing is shown here?", "Tell me what this is."),
    ),
    "color": (
        ("What color is the {}?", "Which color does the {} have?", "What is the color of the {}?",
         "Name the {}'s color.", "In what color is the {} painted?", "Say which color the {} is."),
        ("Tell me the color of the {}.", "The {} has which color?"),
    ),
    "background": (
        ("What color is the background?", "Which color is behind everything?", "What is the background color?",
         "Name the color of the background.", "In front of which color does all this stand?"),
        ("Tell me the color of the background.",),
    ),
    "kind": (
        ("What kind of thing is the {}?", "To which kind does the {} belong?", "The {} is what kind of thing?",
         "Name the kind of thing that the {} is."),
        ("What sort of thing is the {}?",),
    ),
    "count": (
        ("How many {} are there?", "How many {} do you see?", "Count the {}.", "What is the number of {}?",
         "How many {} does the image have?", "Give me the number of {} in the photo.", "Say how many {} are here."),
        ("How many {} are shown in this picture?", "Tell me how many {} you can find."),
    ),
    "compare": (
        ("Are there more {} than {}?", "Do you see more {} than {}?", "Is the number of {} larger than that of {}?",
         "Can you see more {} than {} here?", "Does the image show more {} than {}?"),
        ("Does the picture have more {} than {}?",),
    ),
    "relation": (
        ("What is {} the {}?", "Which thing is {} the {}?", "What do you see {} the {}?", "Name what is {} the {}.",
         "Say which thing stands {} the {}."),
        ("Tell me what is {} the {}.",),
    ),
    "side": (
        ("Is the {} {} the {}?", "Do you see the {} {} the {}?", "Does the {} stand {} the {}?",
         "Is it true that the {} is {} the {}?", "Can one see the {} {} the {}?"),
        ("Would you say that the {} is {} the {}?",),
    ),
    "place": (
        ("Where is the {}?", "In which part of the picture is the {}?", "Where do you see the {}?",
         "Say where the {} is.", "Which part of the image has the {}?"),
        ("Tell me where the {} is.",),
    ),
    "read": (
        ("What does the sign say?", "Which word is on the sign?", "Read the sign.", "What is written on the sign?",
         "What is the word on the board?", "Give me the text of the sign."),
        ("Tell me the word on the board.", "What can you read here?"),
    ),
    "exists": (
        ("Is there {} in the picture?", "Do you see {}?", "Does the image show {}?", "Is there {}?",
         "Can one see {} in this image?", "Does the photo have {} in it?", "Is {} to be seen?", "Did someone draw {}?",
         "Would I find {} in this photo?", "Have you noticed {}?"),
        ("Can you find {} here?", "Does the picture contain {}?"),
    ),
    "statement": (
        ("The picture shows {} {}. Is that right? Answer yes or no.",
         "Are there exactly {} {}? Please answer yes or no.",
         "There are {} {} in the image. Yes or no?", "Somebody says that {} {} are here. Is this so? Say yes or no."),
        ("Is it true that there are {} {} here? Answer yes or no.",),
    ),
    "choice": (
        ("Which of these is in the picture? {} Answer with the letter.",
         "What does the image show? {} Give the letter.",
         "Which one do you see? {} Say its letter.", "{} Which of them is there? Answer with a letter.",
         "What is shown? {} Letter, please."),
        ("Choose what can be seen. {} Answer with the letter only.",),
    ),
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = {
    "mouse": "mice", "sheep": "sheep", "fish": "fish", "shrimp": "shrimp", "butterfly": "butterflies", "fly": "flies",
    "cherries": "cherries", "strawberry": "strawberries", "grapes": "grapes", "potato": "potatoes", "bus": "buses",
    "tomato": "tomatoes", "church": "churches", "factory": "factories", "cactus": "cacti", "octopus": "octopuses",
    "maple leaf": "maple leaves", "jeans": "jeans", "dress": "dresses", "socks": "socks", "gloves": "gloves",
    "scarf": "scarves", "shorts": "shorts", "wrench": "wrenches", "toilet": "toilets", "battery": "batteries",
    "fox": "foxes", "peach": "peaches", "sandwich": "sandwiches", "bread": "breads", "ice cream": "ice creams",
    "popcorn": "popcorns", "corn": "corns", "broccoli": "broccolis", "ladybug": "ladybugs",
}  # fmt: skip
UNCOUNTED = frozenset(
    {"cherries", "grapes", "jeans", "socks", "gloves", "shorts", "popcorn", "corn", "bread", "broccoli"}
)
CELLS = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def questions(scene: Scene, rng: Random, unseen: bool = False) -> Iterator[Turn]:
    """All that is asked about a scene, each with a one-word answer in small letters (choices: a letter).

    Args:
        scene: the picture.
        rng: decides wordings and what is asked.
        unseen: ask in wordings that training never uses.
    """

    ask, found, single = _asker(rng, unseen), counts(scene.things), {}
    for thing in scene.things:
        if found[thing.name] == 1:
            single[thing.name] = thing
    if len(scene.things) == 1 and not scene.sign:
        thing = scene.things[0]
        yield ask("name", thing.drawing)
    for thing in single.values():
        if thing.color:
            yield ask("color", thing.color, thing.name)
    yield ask("background", scene.background, label="color")
    yield from _about_kinds(single, ask, rng)
    yield from _about_numbers(found, ask, rng)
    yield from _about_places(single, ask, rng)
    if scene.sign:
        yield ask("read", scene.sign)
    yield from _about_presence(scene, ask, rng)


def presence(scene: Scene, rng: Random) -> Iterator[Turn]:
    """Only what is there and what is not, asked twice: for training, what a model learns to find things by."""
    for _ in range(2):
        yield from _about_presence(scene, _asker(rng), rng)


Ask = Callable[..., Turn]


def _asker(rng: Random, unseen: bool = False) -> Ask:
    def ask(skill: str, answer: str, *parts: str, label: str = "") -> Turn:
        wording = rng.choice(WORDINGS[skill][unseen])
        return Turn(wording.format(*parts), answer, label or skill)

    return ask


def _about_kinds(single: dict[str, Thing], ask: Ask, rng: Random) -> Iterator[Turn]:
    named = [name for name in single if kind_of(name)]
    if named:
        name = rng.choice(named)
        yield ask("kind", str(kind_of(name)), name)


def _about_numbers(found: dict[str, int], ask: Ask, rng: Random) -> Iterator[Turn]:
    countable = [name for name in found if name not in UNCOUNTED]
    # most things are there once: asked as often as the others, "one" would be the answer three times in four
    for name in [name for name in countable if found[name] > 1 or rng.random() < 0.2][:2]:
        yield ask("count", NUMBERS[found[name]], plural(name))
    if len(countable) > 1:
        first, second = rng.sample(countable, 2)
        if found[first] != found[second]:
            yield ask("compare", _yes(found[first] > found[second]), plural(first), plural(second))
    several = [name for name in countable if found[name] > 1]
    if several:
        name = rng.choice(several)
        right = rng.random() < 0.5
        number = found[name] if right else rng.choice([n for n in range(2, 6) if n != found[name]])
        yield ask("statement", _yes(right), NUMBERS[number], plural(name))


def _about_places(single: dict[str, Thing], ask: Ask, rng: Random) -> Iterator[Turn]:
    """Where one thing is; and of two in one row or column, with no third between or beyond them on that side, which."""
    if single:
        thing = rng.choice(list(single.values()))
        yield ask("place", CELLS[thing.row][thing.column], thing.name)
    pairs = [(a, b, side) for a in single.values() for b in single.values() for side in SIDES if is_at(a, b, side)]
    if not pairs:
        return
    a, b, side = rng.choice(pairs)
    if sum(is_at(other, b, side) for other in single.values()) == 1:
        yield ask("relation", a.name, side, b.name)
    if rng.random() < 0.5:
        yield ask("side", "yes", a.name, side, b.name, label="relation")
    else:
        yield ask("side", "no", b.name, side, a.name, label="relation")


def is_at(a: Thing, b: Thing, side: str) -> bool:
    """Whether a stands on that side of b, in the same row or column."""
    across, down = a.column - b.column, a.row - b.row
    dx, dy = SIDES[side]
    return (across * dx > 0 and down == 0) if dx else (down * dy > 0 and across == 0)


def _about_presence(scene: Scene, ask: Ask, rng: Random) -> Iterator[Turn]:
    found = counts(scene.things)
    name = rng.choice(list(found))
    absent = [n for n in scene.known if n not in found]
    if rng.random() < 0.5:
        yield ask("exists", "yes", _one(name))
    else:
        yield ask("exists", "no", _one(rng.choice(absent)))
    similar = alike(name, scene)
    if rng.random() < 0.5:
        yield ask("exists", "yes", _one(name), label="absent")
    elif similar:
        yield ask("exists", "no", _one(rng.choice(similar)), label="absent")
    options = rng.sample([name, *rng.sample(absent, 3)], 4)
    listed = " ".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    yield ask("choice", "ABCD"[options.index(name)], listed)


def alike(name: str, scene: Scene) -> list[str]:
    """Things of the same kind (for a coloured shape: the others) that training has and this picture doesn't show."""
    shown = {thing.name for thing in scene.things}
    return [other for other in KINDS.get(kind_of(name) or "", COLORS) if other not in shown and other in scene.known]


def plural(name: str) -> str:
    """Of the names of emoji_concepts."""
    return PLURALS.get(name, f"{name}s")


def _one(name: str) -> str:
    if name in UNCOUNTED:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _yes(true: bool) -> str:
    return "yes" if true else "no"
