"""What is asked in a benchmark: real questions about real images, varied, or of a fixed length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from himix_edge.bench.job import Item, Question
from himix_edge.data import Dataset
from himix_edge.errors import InputError
from himix_edge.text import Message, TextProcessor

ITEMS = 5  # distinct items that a run takes turns with: four timed runs of each among 20


@dataclass(frozen=True)
class Asking:
    """How the items are made: images joined for each, questions for each, prompt length (None: as they come)."""

    images: int = 1
    questions_per_image: int = 1
    prompt_tokens: int | None = None


def make_items(dataset: Dataset, text: TextProcessor, asking: Asking, mode: str) -> list[Item]:
    """The items of a run, from the dataset's first images and their questions.

    Raises:
        InputError: the dataset has too few images, or the prompt length cannot be made.
    """
    if mode == "text-only" or asking.images == 0:
        prompts = [turn.question for sample in dataset.samples for talk in sample.conversations for turn in talk]
        count = asking.questions_per_image
        rows: list[tuple[list[str], list[str]]] = [([], _cycle(prompts, i * count, count)) for i in range(ITEMS)]
    else:
        rows = _about_images(dataset, asking)
    encode = encoder(text, mode != "text-only")
    return [
        Item(images, [Question(p, _fixed(encode, p, asking.prompt_tokens)) for p in prompts])
        for images, prompts in rows
    ]


def encoder(text: TextProcessor, images: bool) -> Callable[[str], list[int]]:
    """What makes a first question's tokens; of pictures that stand in the text, those of what follows them."""
    if images and text.template.image is not None:
        return text.encode_behind_pictures
    return lambda prompt: text.encode_chat([Message("user", prompt)])


def depth_ids(dataset: Dataset, text: TextProcessor, count: int) -> list[int]:
    """`count` tokens of an earlier conversation."""
    prompts = [turn.question for sample in dataset.samples for talk in sample.conversations for turn in talk]
    ids: list[int] = []
    for prompt in _cycle(prompts, 0, count):
        if len(ids) >= count:
            break
        ids += text.encode_chat([Message("user", prompt)])
    return ids[:count]


def _about_images(dataset: Dataset, asking: Asking) -> list[tuple[list[str], list[str]]]:
    """One image after the other, each with its own questions; the last question of each is a different one."""
    asked: dict[Path, list[str]] = {}
    for sample in dataset.samples:
        if isinstance(sample.image, Path):
            turns = [turn.question for talk in sample.conversations for turn in talk]
            asked.setdefault(sample.image, []).extend(turns)
    images = list(asked)
    if not images:
        raise InputError(f"{dataset.source}: no images in it; give questions about images, or --mode text-only")
    rows = []
    for i in range(ITEMS):
        joined = _cycle([str(image) for image in images], i * asking.images, asking.images)
        prompts = asked[images[i * asking.images % len(images)]]
        rows.append((joined, _cycle(prompts, i, asking.questions_per_image)))
    return rows


def _fixed(encode: Callable[[str], list[int]], prompt: str, length: int | None) -> list[int] | None:
    """The prompt's tokens made exactly `length` long: its words repeated, the chat template around them kept."""
    if length is None:
        return None
    short, other = (encode(content) for content in ("a", "b"))
    tail = next((n for n in range(min(len(short), len(other))) if short[-1 - n] != other[-1 - n]), 0)
    if length < len(short):
        raise InputError(f"--prompt-tokens {length}: the chat template alone takes {len(short) - 1}; give more")
    words = encode(" ".join([prompt] * length))
    if len(words) < length:
        raise InputError(f"--prompt-tokens {length}: {prompt!r} cannot be repeated to that many tokens")
    return words[: length - tail] + words[len(words) - tail :]


def _cycle(values: Sequence[str], start: int, count: int) -> list[str]:
    return [values[(start + i) % len(values)] for i in range(count)]
