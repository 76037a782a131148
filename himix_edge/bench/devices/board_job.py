"""What a board needs to measure a bundle: its files, the prompts as tokens, the images as pixels."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from himix_edge.bench.devices.remote_job import is_own
from himix_edge.bench.devices.runner import board_runtimes
from himix_edge.bench.job import Item, Job, Question
from himix_edge.bench.plan import Plan
from himix_edge.bundle import MANIFEST, all_files, bundle_text, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import InputError, one_line
from himix_edge.preprocess import load_image
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import Message, TextProcessor

VISION_FIELDS = ("image_size", "num_tokens", "feature_size")  # of the tower, that a board's checks read


@dataclass(frozen=True)
class BoardJob:
    """`files`: name on the board -> file here, job.json included. `image_names`: pixel file -> image file."""

    job: Job
    files: dict[str, Path]
    image_names: dict[str, str]
    package: str
    key: str
    loads: int
    text: TextProcessor

    def text_of(self, ids: str) -> str:
        """The answer's text from its tokens, which the board writes as numbers."""
        stream = self.text.stream()
        return "".join(stream.step(int(token)) for token in ids.split()) + stream.rest()


def board_job(folder: Path, plan: Plan, dataset: Dataset, scratch: Path) -> BoardJob:
    """Verify the bundle and prepare everything in `scratch`.

    Raises InputError or GateRefused as `open_verified`; InputError for a target that no board runs.
    """
    target = read_manifest(folder).target
    runtimes = {runtime.name: runtime for runtime in board_runtimes()}
    if target not in runtimes:
        raise InputError(
            f"{folder}: a board runs {', '.join(runtimes)} bundles, not {one_line(target)}; export it for one of them"
        )
    runtime = runtimes[target]
    bundle = open_verified(folder)
    manifest, config = bundle.manifest, bundle.config
    for record in all_files(manifest):
        first = record.path.partition("/")[0]
        if first in ("pixels", "job.json") or is_own(first):
            raise InputError(f"{folder}: its file {record.path} has the name of one that measuring makes on the board")
    text = bundle_text(folder, manifest)
    if plan.provider is not None:
        raise InputError("--provider: a board computes on its CPU")
    plain = plan.job(folder, dataset)
    pixels: dict[str, str] = {}

    def resized(image: str) -> str:
        assert config.vision is not None
        if image not in pixels:
            pixels[image] = f"pixels/{len(pixels)}.npy"
            (scratch / "pixels").mkdir(exist_ok=True)
            np.save(scratch / pixels[image], load_image(image, config.vision.image_size, config.vision.resample))
        return pixels[image]

    def asked(question: Question) -> Question:
        ids = question.ids if question.ids is not None else text.encode_chat([Message("user", question.prompt)])
        if plan.depth and question.ids is None:
            ids = text.encode_next_turn(question.prompt)
        return Question(question.prompt, ids)

    items = [
        Item([resized(image) for image in item.images], [asked(q) for q in item.questions]) for item in plain.items
    ]
    job = dataclasses.replace(plain, bundle=".", items=items)
    test = manifest.selftest
    rows = (config.num_vision_rows, config.decoder.num_key_value_heads, 0, config.decoder.head_dim)
    board = {
        "engine": runtime.engine, "modules": runtime.modules, "packages": runtime.packages,
        "capacity": manifest.context_capacity, "no_image": rows,
        "activations": manifest.quantization.activations, "vanilla": config.architecture == "vanilla",
        "config": {"decoder": dataclasses.asdict(config.decoder), "vision_rows": config.vision_rows,
                   "vision": {name: getattr(config.vision, name) for name in VISION_FIELDS},
                   "layers_without_image": config.layers_without_image},
        "files": {role: manifest.roles[role][0].path for role in manifest.roles},
        "hashes": {record.path: record.sha256 for record in all_files(manifest)},
        "stop_ids": sorted(text.stop_ids),
        "selftest": {"ids": text.encode_chat([Message("user", test.prompt)]), "token_ids": test.token_ids,
                     "decisive": test.decisive, "pixels": resized(str(folder / test.image))},
    }  # fmt: skip
    (scratch / "job.json").write_text(json.dumps({"job": job.to_dict(), "board": board}), encoding="utf-8")
    files = {record.path: folder / record.path for record in all_files(manifest)}
    files |= {name: scratch / name for name in (*pixels.values(), "job.json")}
    key = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]
    names = {Path(name).name: Path(image).name for image, name in pixels.items()}
    return BoardJob(job, files, names, runtime.packages[0], key, plan.loads, text)
