"""Datasets by name, or from a file; and images alone, from those or from a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from himix_edge.data.dataset import Dataset, LazySamples
from himix_edge.data.easy_vqa import load_easy_vqa, with_phrasings
from himix_edge.data.emoji_scenes import DATASETS, FEW_SUFFIX, load_emoji_scenes
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.preprocess import Picture

Item = TypeVar("Item")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")  # of image files in a folder


def load_dataset(name: str, split: str = "train", image_folder: Path | None = None) -> Dataset:
    """Open a dataset by name or file.

    Args:
        name: "easy-vqa", "easy-vqa-phrased" (as people type it), "emoji-scenes", "emoji-captions", "emoji-lists",
            "emoji-presence", each of these with "-few" behind it, or the path of a LLaVA-format JSON file.
        split: "train" or "test" (emoji-scenes has "test-style", "test-unseen" and "test-wordings" too); a JSON file is
            one split, so it is read whatever this says.
        image_folder: where a JSON file's images are; by default the file's own folder.

    Raises:
        InputError: unknown name, unreadable file, a record that is not in the format (named by its index).
        BackendMissing: the easy-vqa package is not installed.
    """
    if name == "easy-vqa":
        return load_easy_vqa(split)
    if name == "easy-vqa-phrased":
        return with_phrasings(load_easy_vqa(split), seed=0)
    if name.removesuffix(FEW_SUFFIX) in DATASETS:
        asked = name.removeprefix("emoji-").removesuffix(FEW_SUFFIX)
        return load_emoji_scenes(split, asked=asked, few=name.endswith(FEW_SUFFIX))
    if Path(name).suffix == ".json":
        return load_llava(Path(name), image_folder)
    raise InputError(
        f"unknown dataset {name!r}; give easy-vqa, {', '.join(DATASETS)}, these with {FEW_SUFFIX} behind them, or the "
        ".json file of a LLaVA-format dataset"
    )


def load_images(name: str, limit: int, image_folder: Path | None = None) -> list[Path | Picture]:
    """Distinct images, without what is said about them, spread evenly over all that are there.

    Args:
        name: a folder, whose image files are taken, those in its folders too; or as for `load_dataset`.
        limit: most images.
        image_folder: see `load_dataset`.

    Raises:
        InputError: see `load_dataset`; nothing there is an image.
    """
    found: list[Path | Picture | None]
    if Path(name).is_dir():
        found = [*sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)]
    else:
        samples = load_dataset(name, image_folder=image_folder).samples
        drawn = isinstance(samples, LazySamples)  # no more of them than are taken
        found = [sample.image for sample in (_spread(samples, limit) if drawn else samples)]
    images = list(dict.fromkeys(image for image in found if image is not None))
    if not images:
        raise InputError(f"{name}: holds no images")
    return _spread(images, limit)


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, at equal distances."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
