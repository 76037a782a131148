"""The dataset interface: a list of samples, each an image and the conversations people had about it."""

from dataclasses import dataclass
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.preprocess import Picture


@dataclass(frozen=True)
class Turn:
    """One question and its answer, and the skill that it asks for, if the dataset tells."""

    question: str
    answer: str
    skill: str = ""


@dataclass(frozen=True)
class Sample:
    """An image (None: text only) and conversations about it; turns within one conversation follow each other."""

    image: Path | Picture | None
    conversations: tuple[tuple[Turn, ...], ...]


@dataclass(frozen=True)
class Dataset:
    """Samples, and where they came from (for the record of a training run)."""

    name: str
    samples: tuple[Sample, ...]
    source: str
    licence: str

    @property
    def questions(self) -> int:
        return sum(len(conversation) for sample in self.samples for conversation in sample.conversations)


def load_dataset(name: str, split: str = "train", image_folder: Path | None = None) -> Dataset:
    """Open a dataset by name or file.

    Args:
        name: "easy-vqa", "emoji-scenes", or the path of a LLaVA-format JSON file.
        split: "train" or "test" (emoji-scenes has "test-style" and "test-unseen" too); a JSON file is one split, so it
            is read whatever this says.
        image_folder: where a JSON file's images are; by default the file's own folder.

    Raises:
        InputError: unknown name, unreadable file, a record that is not in the format (named by its index).
        BackendMissing: the easy-vqa package is not installed.
    """
    if name == "easy-vqa":
        from himix_edge.data.easy_vqa import load_easy_vqa

        return load_easy_vqa(split)
    if name == "emoji-scenes":
        from himix_edge.data.emoji_scenes import load_emoji_scenes

        return load_emoji_scenes(split)
    if Path(name).suffix == ".json":
        from himix_edge.data.llava import load_llava

        return load_llava(Path(name), image_folder)
    raise InputError(f"unknown dataset {name!r}; give easy-vqa, emoji-scenes or a LLaVA-format .json file")
