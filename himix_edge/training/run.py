"""What a training run works on, and with."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from himix_edge.data import Dataset, load_dataset
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.training.folder import CONVERSATIONS
from himix_edge.training.recipe import DataPart, Recipe
from himix_edge.training.start import Variant


@dataclass(frozen=True)
class Run:
    """What a training run works on, and with.

    Attributes:
        folder: the run folder.
        recipe, variant, seed: decide the result.
        image_folder: where the images of LLaVA-format files are.
        pixels: folder to keep resized images in; None: in memory only.
        workers: processes that make batches ahead; 0: none.
        fsdp: of several processes, each keeps a piece of every weight and of the optimiser's state (FSDP2).
        compile: the decoder's layers by torch.compile: worth its minute on a GPU, where a small model's many operations
            take longer to start than to run, and on a CPU, where they read and write memory too often. Results differ
            by rounding.
        graphs: record a step's operations once and let the GPU repeat them (CUDA graphs): several times faster where a
            small model keeps a GPU waiting. On one GPU; batches are padded.
    """

    folder: Path
    recipe: Recipe
    variant: Variant = field(default_factory=Variant)
    seed: int = 0
    image_folder: Path | None = None
    pixels: Path | None = None
    workers: int = 0
    fsdp: bool = False
    compile: bool = False
    graphs: bool = False

    @property
    def identity(self) -> str:
        """Digest of everything that decides the result: `--resume` continues only a run with the same one."""
        parts = [part for stage in self.recipe.stages for part in stage.data or self.recipe.data]
        files = [Path(part.name).stat().st_size for part in parts if Path(part.name).is_file()]
        what = [dataclasses.asdict(self.recipe), dataclasses.asdict(self.variant), files, self.seed]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def reads(self) -> tuple[Path, ...]:
        """Files and folders that the run needs."""
        parts = (*self.recipe.data, *(part for stage in self.recipe.stages for part in stage.data), *self.recipe.tests)
        names = (self.recipe.model, self.recipe.teacher, *(part.name for part in parts))
        named = [Path(name) for name in names if name and Path(name).exists()]
        return tuple(path for path in (*named, self.image_folder, self.pixels) if path is not None)

    def load_all(self) -> dict[DataPart, Dataset]:
        """All that is learned from. Raises InputError for a dataset with no more than is held out for validation."""
        recipe = self.recipe
        parts = dict.fromkeys(part for stage in recipe.stages for part in stage.data or recipe.data)
        data = {part: self.load(part) for part in parts}
        for dataset in data.values():
            if len(dataset.samples) <= recipe.validation_images:
                raise InputError(
                    f"{dataset.name}: {len(dataset.samples)} samples are too few; {recipe.validation_images} are "
                    "held out for validation (--set validation_images=N)"
                )
        return data

    def load(self, part: DataPart) -> Dataset:
        """One dataset of the recipe; of a folder of pictures what `write_conversations` wrote about them."""
        if Path(part.name).is_dir():
            dataset = load_llava(self.folder / CONVERSATIONS, Path(part.name))
        else:
            dataset = load_dataset(part.name, part.split, self.image_folder)
        return dataset if part.samples is None else dataset.first(part.samples)
