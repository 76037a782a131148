"""The words that answers about images are made of: what a tower's own loss asks a place of an image for."""

from collections.abc import Iterable

from himix_edge.data import Dataset
from himix_edge.errors import InputError
from himix_edge.text import TextProcessor
from himix_edge.training.batches import encode_conversation

SAMPLES = 2000  # of a dataset, that words are taken from


def answer_words(datasets: Iterable[Dataset], text: TextProcessor) -> list[int]:
    """The tokens of answers about images, ascending. Raises InputError for a dataset that begins without an image."""
    found: set[int] = set()
    for dataset in datasets:
        seen = [sample for sample in dataset.first(SAMPLES).samples if sample.image is not None]
        if not seen:
            raise InputError(f"{dataset.name}: no image in its first {SAMPLES} samples: tower_loss needs them")
        for sample in seen:
            for conversation in sample.conversations:
                ids, is_answer = encode_conversation(text, conversation)
                found.update(token for token, said in zip(ids, is_answer, strict=True) if said)
    return sorted(found)
