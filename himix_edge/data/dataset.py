"""The dataset interface: a list of samples, each an image and the conversations people had about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from himix_edge.preprocess import Picture


@dataclass(frozen=True)
class Turn:
    """One question and its answer, and the skill that it asks for, if the dataset tells."""

    question: str
    answer: str
    skill: str = ""


@dataclass(frozen=True)
class Sample:
    """An image (None: text only) and conversations about it; turns within one conversation follow each other.

    `where` names the record that it comes from, for messages.
    """

    image: Path | Picture | None
    conversations: tuple[tuple[Turn, ...], ...]
    where: str = ""


@dataclass(frozen=True)
class Dataset:
    """Samples, and where they came from (for the record of a training run)."""

    name: str
    samples: Sequence[Sample]
    source: str
    license: str

    @property
    def from_records(self) -> bool:
        """Whether the samples are records of a file that nobody vouches for."""
        return bool(len(self.samples)) and bool(self.samples[0].where)

    @property
    def questions(self) -> int:
        return sum(len(sample.conversations) for sample in self.samples)

    def first(self, count: int) -> "Dataset":
        """The dataset's first `count` samples, or as many as there are."""
        return replace(self, samples=self.samples[:count])


@dataclass(frozen=True)
class LazySamples(Sequence[Sample]):
    """Samples that are made when they are asked for, from their numbers."""

    make: Callable[[int], Sample]
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "LazySamples": ...
    def __getitem__(self, index: int | slice) -> "Sample | LazySamples":
        if isinstance(index, slice):
            return replace(self, numbers=self.numbers[index])
        return self.make(self.numbers[index])


class JoinedSamples(Sequence[Sample]):
    """Several sequences of samples, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Sample]]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        for part in self.parts:
            if 0 <= place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(index)
