"""The end of a run: the trained model, the tests of exactly what was written, and the record of how it was made."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from himix_edge.checkpoints import CHECKPOINT, load_checkpoint, write_trained
from himix_edge.data import Dataset, Sample
from himix_edge.files import staged_file
from himix_edge.folders import Replacing, staged_folder
from himix_edge.model import VisionLanguageModel
from himix_edge.text import TextProcessor
from himix_edge.training.folder import FINAL, METRICS, PLOT
from himix_edge.training.logs import plot
from himix_edge.training.lora import plain_name
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.run import Run
from himix_edge.training.start import Start
from himix_edge.training.state import Progress
from himix_edge.training.teacher_forced import exact_answers


def write_final(
    run: Run,
    start: Start,
    learned: Mapping[str, Tensor],
    load: ImageLoader,
    device: torch.device,
    record: dict[str, object],
) -> dict[str, object]:
    """Write `final/` and the plot of the metrics, and ask the recipe's tests.

    Args:
        run: the run; its folder is written into.
        start: what it started from.
        learned: the objective's parameters that have learned, by name.
        load: gives the tests' images their size.
        device: that the tests run on.
        record: how the model was made (`training_record`).

    Returns:
        The record with the tests' results, as stored in provenance.json.

    Raises:
        InputError: the disk is full, or a test's image can't be read.
    """
    recipe, config = run.recipe, start.model.config
    trained = trained_tensors(start, learned)
    scale = recipe.lora_alpha / recipe.lora_rank if recipe.lora_rank else 0.0
    whole = not recipe.pretrained or (not recipe.lora_rank and any("decoder" in s.learn for s in recipe.stages))
    base = None if whole else start.base
    tensors = {name: tensor.half() for name, tensor in start.fresh.items()} | trained
    with staged_file(run.folder / PLOT) as picture:
        plot(run.folder / METRICS, picture)
    with staged_folder(run.folder / FINAL, Replacing(CHECKPOINT, force=True)) as final:
        write_trained(final, config, start.weights, tensors, scale, start.text, record, base)
        if recipe.tests:
            model = load_checkpoint(final).to(device)
            record = record | {
                "tests": {
                    f"{part.name} {part.split}": ask_test(model, start.text, run.load(part).samples, load, recipe.blind)
                    for part in recipe.tests
                }
            }
            (final / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def trained_tensors(start: Start, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this run and those before it trained, in float16, as checkpoints name it; the tower's own head is left."""
    return {name: tensor.half() for name, tensor in start.trained.items()} | {
        plain_name(name.removeprefix("model.")): tensor.half()
        for name, tensor in learned.items()
        if not name.startswith("head.")
    }


def training_record(
    run: Run,
    start: Start,
    datasets: Iterable[Dataset],
    learned: Mapping[str, Tensor],
    progress: Progress,
    machine: dict[str, object],
) -> dict[str, object]:
    """How a model was made: recipe, data, time, FLOPs, sizes. `machine`: the processes, device and precision."""
    stages = {stage.name: progress.flops_of(stage.name, stage.steps) for stage in run.recipe.stages}
    record: dict[str, object] = {
        "architecture": start.model.config.architecture,
        "recipe": dataclasses.asdict(run.recipe),
        "variant": dataclasses.asdict(run.variant),
        "data": [{"name": d.name, "source": d.source, "licence": d.license} for d in datasets],
        "seed": run.seed,
        "seconds": round(progress.seconds),
        "flops": {**stages, "all": sum(stages.values())},
        **machine,
        "torch": torch.__version__,
        "parameters": sum(t.numel() for t in start.model.parameters()),
        "trained_parameters": sum(tensor.numel() for tensor in trained_tensors(start, learned).values()),
    }
    return record | ({"before": start.before} if start.before else {})


def ask_test(
    model: VisionLanguageModel, text: TextProcessor, samples: Sequence[Sample], load: ImageLoader, blind: bool
) -> dict[str, object]:
    """Counts of one test, over all and by skill as [right, asked]."""
    by_skill: dict[str, list[int]] = {}
    for turn, exact in exact_answers(model, text, samples, load, blind):
        counts = by_skill.setdefault(turn.skill, [0, 0])
        counts[0] += exact
        counts[1] += 1
    right, asked = (sum(counts[i] for counts in by_skill.values()) for i in (0, 1))
    return {"right": right, "asked": asked, "accuracy": right / asked, "by_skill": by_skill}
