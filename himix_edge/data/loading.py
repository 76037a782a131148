"""Datasets by name, or from a file."""

from pathlib import Path

from himix_edge.data.dataset import Dataset
from himix_edge.data.easy_vqa import load_easy_vqa, with_phrasings
from himix_edge.data.emoji_scenes import DATASETS, FEW_SUFFIX, load_emoji_scenes
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError


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
