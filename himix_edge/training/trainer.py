"""The training loop: deterministic, killable at any moment, resumable to the same result, on one process or many.

What a run folder holds: see `himix_edge.training.folder`. Started by torchrun or `accelerate launch`, the processes
share each step's images: by Hugging Face Accelerate as copies (DDP), or each with a piece of every weight (FSDP2).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from himix_edge.checkpoints import CHECKPOINT, load_checkpoint, write_trained
from himix_edge.checkpoints.trained import is_adapter
from himix_edge.data import Dataset, JoinedSamples, Sample, load_dataset
from himix_edge.disk import disk_errors
from himix_edge.errors import InputError
from himix_edge.files import staged_file
from himix_edge.folders import Replacing, staged_folder
from himix_edge.model import VisionLanguageModel, part_of
from himix_edge.model.sampled_text import sample_texts
from himix_edge.training.batches import Batch, BatchMaker, encode_conversation, shares
from himix_edge.training.checking import check_images
from himix_edge.training.folder import FINAL, LAST, METRICS, OWN_TEXTS, PLOT, run_folder
from himix_edge.training.graphed import GraphedStep
from himix_edge.training.logs import MetricsLog, ProgressReport, plot
from himix_edge.training.lora import add_adapters, plain_name, set_adapters, use_adapters
from himix_edge.training.objective import Objective
from himix_edge.training.pixels import ImageLoader, clear_leftovers
from himix_edge.training.processes import accelerator, computes_bfloat16, device_name, wrap
from himix_edge.training.recipe import DataPart, Recipe, Stage
from himix_edge.training.start import Start, Variant, start
from himix_edge.training.state import (
    Progress,
    learned_tensors,
    optimizer_tensors,
    read_progress,
    restore_learned,
    restore_optimizer,
    save_state,
)
from himix_edge.training.teacher_forced import exact_answers, question_batches
from himix_edge.training.word_start import start_from_words

OWN_TOKENS, OWN_BATCH = 192, 128
LAYER_KINDS = 32  # compiled apart: with injection, adapters, a cache, a gradient, or not; torch gives up at 8
FLOPS_EVERY = 500  # steps between those whose FLOPs are counted
WORD_SAMPLES = 2000  # of a dataset, that a tower's words are taken from
WORD_IMAGES = 512  # of a stage, that an injection which starts from words is fitted on


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
        named = [Path(name) for name in (self.recipe.model, *(part.name for part in parts)) if Path(name).exists()]
        return tuple(path for path in (*named, self.image_folder, self.pixels) if path is not None)

    def load(self, part: DataPart) -> Dataset:
        """One dataset of the recipe."""
        dataset = load_dataset(part.name, part.split, self.image_folder)
        return dataset if part.samples is None else dataset.first(part.samples)


def train(run: Run, resume: bool = False, stop_after: int | None = None, force: bool = False) -> dict[str, Any]:
    """Train through all stages, evaluate on the recipe's tests, and write `final/`.

    Args:
        run: what to train.
        resume: continue from `last/`; the result equals that of an uninterrupted run.
        stop_after: end early after this many steps of this call, as a kill would (for tests).
        force: replace an earlier run, which stays until this one is complete.

    Returns:
        The provenance record that is also stored in `final/`; empty if ended early.

    Raises:
        InputError: the folder holds a run already and neither `resume` nor `force` is set, a different run, or
            something else; it can't be written; data that is too little or can't be read.
        BackendMissing: accelerate or peft is not installed.
    """
    processes = accelerator()
    main, meet = processes.is_main_process, processes.wait_for_everyone
    with run_folder(run.folder, resume, force, run.reads, main, meet) as work:
        trainer = Trainer(dataclasses.replace(run, folder=work), resume)
        end = run.recipe.steps if stop_after is None else min(run.recipe.steps, trainer.progress.step + stop_after)
        trainer.run_to(end)
        return trainer.finish() if end == run.recipe.steps else {}


class Trainer:
    """One run in one process; with several processes, one of them in each."""

    def __init__(self, run: Run, resume: bool):
        self.run, self.recipe, self.last = run, run.recipe, run.folder / LAST
        self.accelerator = accelerator()
        if run.fsdp and self.accelerator.num_processes == 1:
            raise InputError("--fsdp: shares the weights among processes; start several with torchrun")
        if run.graphs and (self.accelerator.device.type != "cuda" or self.accelerator.num_processes > 1):
            raise InputError("--graphs: records what one GPU does; here is none, or several processes")
        if run.recipe.images_per_step < self.accelerator.num_processes * run.recipe.accumulate:
            raise InputError(f"images_per_step={run.recipe.images_per_step} is too few for so many micro-batches")
        self.progress = read_progress(self.last, run.identity) if resume else Progress()
        parts = dict.fromkeys(part for stage in run.recipe.stages for part in stage.data or run.recipe.data)
        self.data = {part: run.load(part) for part in parts}
        for dataset in self.data.values():
            if len(dataset.samples) <= run.recipe.validation_images:
                raise InputError(
                    f"{dataset.name}: {len(dataset.samples)} samples are too few; {run.recipe.validation_images} are "
                    "held out for validation (--set validation_images=N)"
                )
        tests = [run.load(part) for part in run.recipe.tests]  # so that none is missing at the end
        if self.accelerator.is_main_process and not run.recipe.blind:
            check_images([*self.data.values(), *tests])
        self.start: Start = start(run.recipe, run.variant, self.data.values(), run.seed)
        model = self.start.model.train()
        torch.manual_seed(run.seed)  # of fresh adapters, and of the head of the tower's loss
        self._add_adapters(model)
        self.precision = run.recipe.precision
        if self.precision == "auto":
            self.precision = "bfloat16" if computes_bfloat16(self.accelerator.device) else "float32"
        self.objective = Objective(model, self.precision == "bfloat16", self._words())
        self.learned = frozenset(
            name for name, _ in self.objective.named_parameters() for stage in run.recipe.stages
            if _learns(name, stage, run.recipe)
        )  # fmt: skip
        self.objective.to(self.accelerator.device)
        self.own_texts = self._own_texts()
        if resume:
            restore_learned(self.last, self.objective)
        assert model.config.vision is not None
        self.load = ImageLoader(model.config.vision, run.pixels)
        if run.pixels and self.accelerator.is_main_process:
            clear_leftovers(run.pixels)
        self.wrapped: Any = None
        self.graphed: GraphedStep | None = None
        if run.compile:
            torch.compiler.config.recompile_limit = LAYER_KINDS
            for layer in model.model.layers:
                layer.compile(dynamic=True)

    def run_to(self, end: int) -> None:
        """Train until `end` steps are done, from wherever the run is."""
        main, began = self.accelerator.is_main_process, time.monotonic() - self.progress.seconds
        with disk_errors(self.run.folder):
            log = MetricsLog(self.run.folder / METRICS, self.progress.step) if main else None
        resumed = self.progress.step
        with ProgressReport(self.recipe.steps, self.progress.step, main) as report:
            while self.progress.step < end:
                stage, first = self.recipe.stage_of(self.progress.step)
                optimizer = self._begin(stage, restore=first < resumed == self.progress.step)
                steps = range(self.progress.step - first, min(first + stage.steps, end) - first)
                for step, batches in shares(
                    self._maker(stage), steps, self.accelerator.process_index, self.accelerator.num_processes,
                    self.run.workers,
                ):  # fmt: skip
                    row = self._step(stage, step, optimizer, batches)
                    self.progress.step = done = first + step + 1
                    if done % self.recipe.evaluate_every == 0 and stage.answer_loss:
                        row["validation_accuracy"] = self._validate(stage)
                    self.progress.seconds = time.monotonic() - began
                    row = {"step": done, "stage": stage.name, **row, "seconds": round(self.progress.seconds, 1)}
                    if log:
                        log.add(row)
                    report(row)
                    if done % self.recipe.checkpoint_every == 0 or done == self.recipe.steps:
                        self._save(optimizer)
        if log:
            log.close()

    def finish(self) -> dict[str, Any]:
        """Write `final/`: exactly what was written is evaluated, and stored with it the record of how it was made."""
        run, recipe = self.run, self.recipe
        learned = learned_tensors(self.wrapped or self.objective, self.learned)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return {}
        tensors = {name: tensor.half() for name, tensor in self.start.trained.items()} | {
            plain_name(name.removeprefix("model.")): tensor.half()
            for name, tensor in learned.items()
            if not name.startswith("head.")
        }
        stages = {stage.name: self._flops(stage) for stage in recipe.stages}
        provenance: dict[str, Any] = {
            "architecture": self.objective.model.config.architecture,
            "recipe": dataclasses.asdict(recipe),
            "variant": dataclasses.asdict(run.variant),
            "data": [{"name": d.name, "source": d.source, "licence": d.licence} for d in self.data.values()],
            "seed": run.seed,
            "seconds": round(self.progress.seconds),
            "flops": {**stages, "all": sum(stages.values())},
            "processes": self.accelerator.num_processes,
            "device": device_name(self.accelerator.device),
            "precision": self.precision,
            "torch": torch.__version__,
            "parameters": sum(t.numel() for t in self.objective.model.parameters()),
            "trained_parameters": sum(tensor.numel() for tensor in tensors.values()),
        }
        if self.start.before:
            provenance["before"] = self.start.before
        scale = recipe.lora_alpha / recipe.lora_rank if recipe.lora_rank else 0.0
        config = self.objective.model.config
        whole = not recipe.pretrained or (not recipe.lora_rank and any("decoder" in s.learn for s in recipe.stages))
        base = None if whole else self.start.base
        tensors = {name: tensor.half() for name, tensor in self.start.fresh.items()} | tensors
        with staged_file(run.folder / PLOT) as picture:
            plot(run.folder / METRICS, picture)
        with staged_folder(run.folder / FINAL, Replacing(CHECKPOINT, force=True)) as final:
            write_trained(final, config, self.start.weights, tensors, scale, self.start.text, provenance, base)
            if recipe.tests:
                model = load_checkpoint(final).to(self.accelerator.device)
                tests = {f"{p.name} {p.split}": self._test(model, run.load(p).samples) for p in recipe.tests}
                provenance["tests"] = tests
                (final / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
        return provenance

    def _add_adapters(self, model: VisionLanguageModel) -> None:
        """The recipe's; they go on from those that an earlier run trained."""
        recipe = self.recipe
        if recipe.lora_rank:
            first = 0 if model.config.architecture == "vanilla" else recipe.lora_first_layer
            add_adapters(model, recipe.lora_rank, recipe.lora_alpha, first)
        if adapters := {name: tensor for name, tensor in self.start.trained.items() if is_adapter(name)}:
            set_adapters(model, adapters, recipe.model)

    def _begin(self, stage: Stage, restore: bool) -> torch.optim.Optimizer:
        """Let the stage's parts learn, and wrap the objective; its optimiser."""
        if self.recipe.lora_rank:
            begun = self.recipe.stages[: self.recipe.stages.index(stage) + 1]
            learned = bool(self.start.trained) or any("decoder" in earlier.learn for earlier in begun)
            use_adapters(self.objective.model, learned)
        if stage.from_words and not restore:
            self._start_from_words(stage)
        for name, parameter in self.objective.named_parameters():
            parameter.requires_grad_(_learns(name, stage, self.recipe))
        self.wrapped = wrap(self.objective, self.accelerator, self.run.fsdp)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.objective.named_parameters():  # only now: FSDP puts its own in their place
            if parameter.requires_grad:
                decay = self.recipe.weight_decay if parameter.ndim >= 2 else 0.0
                groups.setdefault((decay, _rate(name, stage)), []).append(parameter)
        settings = [{"params": p, "weight_decay": decay, "rate": rate} for (decay, rate), p in groups.items()]
        fused = self.accelerator.device.type == "cuda" and not self.run.fsdp
        optimizer = torch.optim.AdamW(settings, lr=stage.learning_rate, betas=self.recipe.betas, fused=fused)
        if restore:
            restore_optimizer(self.last, self.objective, optimizer)
        self.graphed = GraphedStep(self.objective, stage) if self.run.graphs else None
        return optimizer

    def _start_from_words(self, stage: Stage) -> None:
        part, held_out = (stage.data or self.recipe.data)[0], self.recipe.validation_images
        samples = self.data[part].samples[held_out : held_out + WORD_IMAGES]
        images = [self.load(sample.image) for sample in samples if sample.image is not None]
        assert self.objective.head is not None
        pixels = torch.from_numpy(np.concatenate(images)).to(self.accelerator.device)
        start_from_words(self.objective.model, self.objective.head, self.start.text, pixels)

    def _maker(self, stage: Stage) -> BatchMaker:
        held_out = self.recipe.validation_images
        parts = [self.data[part].samples[held_out:] for part in stage.data or self.recipe.data]
        number = self.recipe.stages.index(stage)
        own = self.own_texts if "decoder" in stage.learn else None
        return BatchMaker(parts, self.start.text, self.recipe, self.load, (self.run.seed, number), own)

    def _step(self, stage: Stage, step: int, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> dict[str, Any]:
        """One optimiser step; the loss of the answers and the share of rows answered exactly, over all processes."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        counts = torch.tensor([[b.targets, len(b.input_ids)] for b in batches]).sum(0)
        if processes > 1:
            counts = self.accelerator.reduce(counts.to(device), "sum")
        targets, rows = counts.tolist()
        rate = learning_rate(step, stage)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        sums = torch.zeros(2, device=device)
        counted = step % FLOPS_EVERY == 0
        counter = FlopCounterMode(display=False) if counted else contextlib.nullcontext()
        with counter, torch.compiler.set_stance("force_eager" if counted else "default"):
            for number, batch in enumerate(batches):
                last = number == len(batches) - 1
                scale = processes / max(1, targets)  # DDP takes the mean over the processes
                if self.graphed and not counted:
                    sums += self.graphed(batch, scale)
                    continue
                with contextlib.nullcontext() if last or self.run.fsdp else self.accelerator.no_sync(self.wrapped):
                    loss, answers, right = self.wrapped(batch.to(device), stage)
                    (loss * scale).backward()
                sums += torch.stack([answers, right.sum()])
        if isinstance(counter, FlopCounterMode):
            total, count = self.progress.flops.get(stage.name, (0, 0))
            self.progress.flops[stage.name] = (total + counter.get_total_flops() * processes, count + 1)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=self.graphed is None)  # graphs add to gradients where they lie
        answers_sum, right_sum = self.accelerator.reduce(sums, "sum").tolist()
        return {"loss": answers_sum / max(1, targets), "accuracy": right_sum / rows, "learning_rate": rate}

    def _words(self) -> list[int]:
        """The tokens of answers about images, which a tower's own loss asks for."""
        parts = {part for stage in self.recipe.stages if stage.tower_loss for part in stage.data or self.recipe.data}
        found: set[int] = set()
        for part in parts:
            first = self.data[part].first(WORD_SAMPLES)
            seen = [sample for sample in first.samples if sample.image is not None]
            if not seen:
                raise InputError(f"{first.name}: no image in its first {WORD_SAMPLES} samples: tower_loss needs them")
            for sample in seen:
                for conversation in sample.conversations:
                    ids, answered = encode_conversation(self.start.text, conversation)
                    found.update(token for token, said in zip(ids, answered, strict=True) if said)
        return sorted(found)

    def _own_texts(self) -> Tensor | None:
        """Texts that the model writes before it learns, kept in the run folder."""
        if not self.recipe.own_texts:
            return None
        path = self.run.folder / OWN_TEXTS
        with self.accelerator.main_process_first():
            if not path.is_file():
                batches = -(-self.recipe.own_texts // OWN_BATCH)
                model = self.objective.model
                texts = [sample_texts(model, OWN_BATCH, OWN_TOKENS, seed).cpu() for seed in range(batches)]
                with staged_file(path) as staged:
                    save_file({"ids": torch.cat(texts)[: self.recipe.own_texts]}, staged)
        return load_file(path)["ids"]

    @torch.no_grad()
    def _validate(self, stage: Stage) -> float:
        """Share of the held-out training questions that are answered exactly. Every process asks all of them."""
        parts = self.recipe.stages[-1].data or self.recipe.data
        held_out = JoinedSamples([self.data[part].samples[: self.recipe.validation_images] for part in parts])
        right = asked = 0
        for turns, batch in question_batches(held_out, self.start.text, self.load, self.recipe.blind):
            right += int(self.wrapped(batch.to(self.accelerator.device), stage)[2].sum())
            asked += len(turns)
        return right / asked

    def _test(self, model: VisionLanguageModel, samples: Sequence[Sample]) -> dict[str, Any]:
        """Counts of one test, over all and by skill as [right, asked]."""
        by_skill: dict[str, list[int]] = {}
        for turn, exact in exact_answers(model, self.start.text, samples, self.load, self.recipe.blind):
            counts = by_skill.setdefault(turn.skill, [0, 0])
            counts[0] += exact
            counts[1] += 1
        right, asked = (sum(counts[i] for counts in by_skill.values()) for i in (0, 1))
        return {"right": right, "asked": asked, "accuracy": right / asked, "by_skill": by_skill}

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        learned = learned_tensors(self.wrapped, self.learned)
        state = optimizer_tensors(self.wrapped, optimizer)
        if self.accelerator.is_main_process:
            save_state(self.last, learned, state, self.progress, self.run.identity)
        self.accelerator.wait_for_everyone()

    def _flops(self, stage: Stage) -> int:
        """Of the whole stage, from the mean of the steps that were counted."""
        total, count = self.progress.flops.get(stage.name, (0, 0))
        return total * stage.steps // max(1, count)


def learning_rate(step: int, stage: Stage) -> float:
    """Of a stage's step, counted from 0: linear warm-up to the peak, then a cosine to zero behind the last one."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _learns(name: str, stage: Stage, recipe: Recipe) -> bool:
    """Whether a parameter of the objective learns in a stage; the tower's own head does with its loss."""
    if name.startswith("head."):
        return stage.tower_loss > 0
    part = part_of(name.removeprefix("model."))
    adapted = part != "decoder" or not recipe.lora_rank or ".lora_" in name
    return part in stage.learn and adapted


def _rate(name: str, stage: Stage) -> float:
    """A parameter's learning rate, as a factor of the stage's."""
    if name.startswith("head."):
        return 1.0
    if ".k_proj_img." in name:
        return stage.key_rate
    return {"tower": stage.tower_rate, "decoder": stage.decoder_rate}.get(part_of(name.removeprefix("model.")), 1.0)
