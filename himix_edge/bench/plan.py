"""A benchmark as it was asked for, and the job that comes of it for one bundle."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from himix_edge.bench.job import Item, Job
from himix_edge.bench.questions import Asking, depth_ids, encoder, make_items
from himix_edge.bench.record import Settings
from himix_edge.bundle import Bundle, bundle_text, read_manifest
from himix_edge.config import ModelConfig
from himix_edge.data import Dataset
from himix_edge.errors import InputError
from himix_edge.runtimes.pictures import picture_ids
from himix_edge.text import TextProcessor
from himix_edge.tiles import load_tiles

COLD_LOADS = 3


@dataclass(frozen=True)
class Plan:
    """How to measure; the fields are those of the record's settings.

    `natural`: answers end where the model ends them; otherwise each has exactly `new_tokens`. `vision_tokens`: None
    takes the images as they are, a number makes them that many slots. `loads`: how often the bundle is opened.
    """

    mode: str = "cold-image"
    warm_up: int = 3
    timed: int = 20
    threads: int | None = None
    provider: str | None = None  # what computes, see `open_bundle`
    images: int = 1
    questions_per_image: int = 1
    prompt_tokens: int | None = None
    new_tokens: int = 32
    natural: bool = False
    depth: int = 0
    vision_tokens: int | None = None
    max_temperature: float | None = None
    loads: int = COLD_LOADS
    sustained_s: float | None = None
    cores: str | None = None

    def checked(self) -> "Plan":
        """This plan. Raises InputError for settings that exclude each other."""
        if self.depth and self.mode == "cold-image":
            raise InputError("--depth: what was said before is behind an image already seen; add --image warm")
        if self.mode == "text-only" and self.images > 1:
            raise InputError("--images: a text-only run has none")
        if self.max_temperature is not None and not math.isfinite(self.max_temperature):
            raise InputError(f"--max-temperature {self.max_temperature}: give degrees Celsius")
        return self

    def at(self, vision_tokens: int) -> "Plan":
        """The same with keys and values of exactly `vision_tokens` slots; the bundle is opened once."""
        mode = "warm-image" if vision_tokens else "text-only"
        changed = {"mode": mode, "vision_tokens": vision_tokens or None, "images": 1, "loads": 1, "sustained_s": None}
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]  # each is its field's

    def job(self, folder: Path, dataset: Dataset) -> Job:
        """What a measuring process does for this bundle.

        Raises:
            InputError: not a bundle, or what is asked does not fit into its context.
        """
        manifest = read_manifest(folder)
        text = bundle_text(folder, manifest)
        images = 0 if self.mode == "text-only" else self.images
        config = Bundle(folder, manifest).config
        vision = self.vision_tokens or images * manifest.vision_tokens  # of pictures in the text at least
        room = manifest.context_capacity - self.new_tokens - self.depth - vision
        if self.prompt_tokens and self.prompt_tokens > room:  # said before prompts are made so long
            raise InputError(
                f"{folder}: {vision} image, {self.depth} earlier, {self.prompt_tokens} prompt and {self.new_tokens} "
                f"answer tokens do not fit its context capacity, which is {manifest.context_capacity}"
            )
        asking = Asking(self.images, self.questions_per_image, self.prompt_tokens)
        items = make_items(dataset, text, asking, self.mode)
        if images > 1 and config.architecture == "vanilla" and config.images is None:
            raise InputError(f"{folder}: a vanilla model takes one image, not {images}")
        if images and not self.vision_tokens and config.images is not None:
            vision = max(_slots(text, config, item, manifest.context_capacity) for item in items)
        encode = encoder(text, bool(images))
        longest = self.prompt_tokens or max(
            len(encode(question.prompt)) for item in items for question in item.questions
        )
        needed = vision + self.depth + longest + self.new_tokens
        if needed > manifest.context_capacity:
            raise InputError(
                f"{folder}: {vision} image, {self.depth} earlier, {longest} prompt and {self.new_tokens} answer tokens "
                f"are {needed}, its context capacity is {manifest.context_capacity}"
            )
        return Job(
            bundle=str(folder.resolve()),
            items=items,
            mode=self.mode,
            warm_up=self.warm_up,
            timed=self.timed,
            new_tokens=self.new_tokens,
            threads=self.threads,
            provider=self.provider,
            ignore_stop=not self.natural,
            vision_tokens=self.vision_tokens,
            depth_ids=depth_ids(dataset, text, self.depth),
            max_temperature=self.max_temperature,
            sustained_s=self.sustained_s,
            cores=self.cores,
        )

    def settings(self, vision_tokens: int, provider: str | None, files_dropped: str | None = None) -> Settings:
        """The record's settings; `files_dropped`: how the kernel was made to forget the bundle's files."""
        return Settings.model_validate({
            "warm_up": self.warm_up, "timed": self.timed, "mode": self.mode, "threads": self.threads,
            "images": 0 if self.mode == "text-only" else self.images, "vision_tokens": vision_tokens,
            "prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens, "depth": self.depth,
            "questions_per_image": self.questions_per_image, "provider": provider, "ignore_stop": not self.natural,
            "sustained_s": self.sustained_s, "cores": self.cores, "files_dropped": files_dropped,
        })  # fmt: skip


def _slots(text: TextProcessor, config: ModelConfig, item: Item, capacity: int) -> int:
    """How many cache slots an item's pictures take in the text. Raises InputError where they do not fit."""
    assert config.vision is not None
    assert config.images is not None
    tiles = [load_tiles(image, config.vision.image_size, config.images) for image in item.images]
    return len(picture_ids(text, config, tiles, None, capacity))
