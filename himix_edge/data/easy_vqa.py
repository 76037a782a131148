"""easy-VQA (Victor Zhou, MIT licence): 64 x 64 images of one shape, 48k questions, 13 answers, its own split."""

import random
from collections import defaultdict
from pathlib import Path

from himix_edge import extras
from himix_edge.data.dataset import Dataset, Sample, Turn
from himix_edge.errors import InputError

SHAPES = frozenset({"circle", "rectangle", "triangle"})
COLORS = frozenset({"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"})
SHAPE_QUESTIONS = ("What shape is this?", "Which shape do you see?", "Name the shape.")
COLOR_QUESTIONS = ("What color is it?", "Which color do you see?", "Name the color.")
CAPTION_QUESTIONS = ("Describe the image.", "What do you see?", "What is in the image?", "What is this?")
IS_THERE = ("is there a {}?", "does the image contain a {}?", "is a {} present?", "is it a {}?", "is this a {}?")
IS_THERE_NOT = ("is there not a {}?", "does the image not contain a {}?", "is no {} present?")


def load_easy_vqa(split: str) -> Dataset:
    """One split of easy-VQA, a sample per image, each question a conversation of its own.

    The questions are the benchmark's own, unchanged. Raises BackendMissing without the `easy-vqa` package.
    """
    with extras.needed("easy-vqa", extras.TRAIN):
        import easy_vqa
    readers = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }
    if split not in readers:
        raise InputError(f"easy-vqa has no split {split!r}; give train or test")
    questions, images = readers[split]
    turns: dict[int, list[Turn]] = defaultdict(list)
    for question, answer, image in zip(*questions(), strict=True):
        turns[image].append(Turn(question, answer))
    paths = images()
    samples = tuple(Sample(Path(paths[i]), tuple((turn,) for turn in turns[i])) for i in sorted(turns))
    return Dataset("easy-vqa", samples, f"PyPI easy-vqa, {split} split", "MIT")


def with_phrasings(dataset: Dataset, seed: int) -> Dataset:
    """For training only: easy-VQA as people type it, with captions and more questions about shapes.

    Half of the questions get a capital letter and one in ten loses its question mark. What an image's own questions
    give away about it is asked for in further words: its shape, its color, whether it is each of the three shapes,
    and with both, a caption ("a red circle").
    """
    rng = random.Random(seed)
    samples = []
    for sample in dataset.samples:
        turns = [turn for (turn,) in sample.conversations]
        shape = next((turn.answer for turn in turns if turn.answer in SHAPES), None)
        color = next((turn.answer for turn in turns if turn.answer in COLORS), None)
        turns = [Turn(_retype(turn.question, rng), turn.answer) for turn in turns]
        if shape:
            turns.append(Turn(_retype(rng.choice(SHAPE_QUESTIONS), rng), shape))
            turns += [_about(asked, shape, rng) for asked in sorted(SHAPES)]
        if color:
            turns.append(Turn(_retype(rng.choice(COLOR_QUESTIONS), rng), color))
        if shape and color:
            captions = rng.sample(CAPTION_QUESTIONS, 2)
            turns += [Turn(_retype(question, rng), f"a {color} {shape}") for question in captions]
        samples.append(Sample(sample.image, tuple((turn,) for turn in turns)))
    return Dataset(dataset.name, tuple(samples), dataset.source, dataset.license)


def _about(asked: str, shape: str, rng: random.Random) -> Turn:
    """Whether the image's `shape` is the one that is asked about, in one of eight wordings."""
    negated = rng.random() < 0.5
    wording = rng.choice(IS_THERE_NOT if negated else IS_THERE)
    return Turn(_retype(wording.format(asked), rng), "yes" if (asked == shape) != negated else "no")


def _retype(question: str, rng: random.Random) -> str:
    question = question[0].upper() + question[1:] if rng.random() < 0.5 else question[0].lower() + question[1:]
    return question.rstrip("?.") if rng.random() < 0.1 else question
