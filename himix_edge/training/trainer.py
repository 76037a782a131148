"""The training loop: deterministic, killable at any moment, resumable to the same result, on one process or many.

What a run folder holds: see `himix_edge.training.folder`. Started by torchrun or `accelerate launch`, the processes
share each step's images: by Hugging Face Accelerate as copies (DDP), or each with a piece of every weight (FSDP2).
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from himix_edge.checkpoints.trained import is_adapter
from himix_edge.data import Dataset, JoinedSamples
from himix_edge.disk import disk_errors
from himix_edge.errors import InputError
from himix_edge.training.answer_words import answer_words
from himix_edge.training.batch import Batch
from himix_edge.training.batches import BatchMaker, shares
from himix_edge.training.checking import check_images
from himix_edge.training.conversations import write_conversations
from himix_edge.training.final import training_record, write_final
from himix_edge.training.folder import LAST, METRICS, OWN_TEXTS, run_folder
from himix_edge.training.graphed import GraphedStep
from himix_edge.training.logs import MetricsLog, ProgressDisplay, Row
from himix_edge.training.lora import add_adapters, set_adapters, use_adapters
from himix_edge.training.objective import Losses, Objective
from himix_edge.training.own_texts import own_texts
from himix_edge.training.pixels import ImageLoader, clear_leftovers
from himix_edge.training.processes import accelerator, computes_bfloat16, device_name, wrap
from himix_edge.training.rates import learning_rate, learns, rate_factor
from himix_edge.training.recipe import Stage
from himix_edge.training.run import Run
from himix_edge.training.start import Start, start
from himix_edge.training.state import (
    Progress,
    learned_tensors,
    optimizer_tensors,
    read_progress,
    restore_learned,
    restore_optimizer,
    save_state,
)
from himix_edge.training.teacher import open_teacher
from himix_edge.training.teacher_forced import question_batches
from himix_edge.training.word_start import start_from_words

LAYER_KINDS = 32  # compiled apart: with injection, adapters, a cache, a gradient, or not; torch gives up at 8
FLOPS_EVERY = 500  # steps between those whose FLOPs are counted
WORD_IMAGES = 512  # of a stage, that an injection which starts from words is fitted on


def train(run: Run, resume: bool = False, stop_after: int | None = None, force: bool = False) -> dict[str, object]:
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
        self._refuse_contradictions()
        self.progress = read_progress(self.last, run.identity) if resume else Progress()
        with self.accelerator.main_process_first():
            write_conversations(run)
        self.data = run.load_all()
        tests = [run.load(part) for part in run.recipe.tests]  # so that none is missing at the end
        if self.accelerator.is_main_process and not run.recipe.blind:
            check_images([*self.data.values(), *tests])
        self.start: Start = start(run.recipe, run.variant, self.data.values(), run.seed)
        model = self.start.model.train()
        torch.manual_seed(run.seed)  # of fresh adapters, and of the head of the tower's loss
        if run.recipe.lora_rank:
            first = 0 if model.config.architecture == "vanilla" else run.recipe.lora_first_layer
            add_adapters(model, run.recipe.lora_rank, run.recipe.lora_alpha, first)
        teacher = open_teacher(run.recipe, self.start, self.accelerator.device)
        if run.graphs and teacher is not None and teacher.text is not None:
            raise InputError("--graphs: a teacher whose picture stands in its text reads rows of its own; leave it out")
        if adapters := {name: tensor for name, tensor in self.start.trained.items() if is_adapter(name)}:
            set_adapters(model, adapters, run.recipe.model)  # that an earlier run trained
        self.precision = run.recipe.precision
        if self.precision == "auto":
            self.precision = "bfloat16" if computes_bfloat16(self.accelerator.device) else "float32"
        with_tower_loss = [stage for stage in run.recipe.stages if stage.tower_loss]
        words = answer_words(self._datasets(with_tower_loss), self.start.text)
        self.objective = Objective(model, self.precision == "bfloat16", words, teacher, run.recipe.temperature)
        self.learned = frozenset(
            name for name, _ in self.objective.named_parameters() for stage in run.recipe.stages
            if learns(name, stage, run.recipe)
        )  # fmt: skip
        self.objective.to(self.accelerator.device)
        self.own_texts: Tensor | None = None
        if run.recipe.own_texts:
            with self.accelerator.main_process_first():
                self.own_texts = own_texts(run.folder / OWN_TEXTS, model, run.recipe.own_texts)
        if resume:
            restore_learned(self.last, self.objective)
        assert model.config.vision is not None
        self.load = ImageLoader(model.config.vision, run.pixels)
        if run.pixels and self.accelerator.is_main_process:
            clear_leftovers(run.pixels)
        self.wrapped: nn.Module = self.objective  # as several processes train it, see `wrap`
        self.graphed: GraphedStep | None = None
        if run.compile:
            torch.compiler.config.recompile_limit = LAYER_KINDS
            for layer in model.model.layers:
                layer.compile(dynamic=True)

    def _refuse_contradictions(self) -> None:
        run = self.run
        if run.fsdp and self.accelerator.num_processes == 1:
            raise InputError("--fsdp: shares the weights among processes; start several with torchrun")
        if run.graphs and (self.accelerator.device.type != "cuda" or self.accelerator.num_processes > 1):
            raise InputError("--graphs: records what one GPU does; here is none, or several processes")
        if run.recipe.images_per_step < self.accelerator.num_processes * run.recipe.accumulate:
            raise InputError(f"images_per_step={run.recipe.images_per_step} is too few for so many micro-batches")
        if run.compile and any(stage.attention_loss for stage in run.recipe.stages):
            raise InputError("--compile: attention_loss reads what compiled layers do not show; leave one of them out")

    def _datasets(self, stages: Iterable[Stage]) -> list[Dataset]:
        """What these stages learn from, each once."""
        return [self.data[part] for part in dict.fromkeys(p for s in stages for p in s.data or self.recipe.data)]

    def run_to(self, end: int) -> None:
        """Train until `end` steps are done, from wherever the run is."""
        main, began = self.accelerator.is_main_process, time.monotonic() - self.progress.seconds
        with disk_errors(self.run.folder):
            log = MetricsLog(self.run.folder / METRICS, self.progress.step) if main else None
        resumed = self.progress.step
        with ProgressDisplay(self.recipe.steps, self.progress.step, main) as report:
            while self.progress.step < end:
                stage, first = self.recipe.stage_of(self.progress.step)
                optimizer = self._begin(stage, restore=first < resumed == self.progress.step)
                steps = range(self.progress.step - first, min(first + stage.steps, end) - first)
                for step, batches in shares(
                    self._maker(stage), steps, self.accelerator.process_index, self.accelerator.num_processes,
                    self.run.workers,
                ):  # fmt: skip
                    row: Row = self._step(stage, step, optimizer, batches)
                    self.progress.step = done = first + step + 1
                    if done % self.recipe.evaluate_every == 0 and stage.decodes:
                        row["validation_accuracy"] = self._validate(stage)
                    self.progress.seconds = time.monotonic() - began
                    row |= {"step": done, "stage": stage.name, "seconds": round(self.progress.seconds, 1)}
                    if log:
                        log.add(row)
                    report(row)
                    if done % self.recipe.checkpoint_every == 0 or done == self.recipe.steps:
                        self._save(optimizer)
        if log:
            log.close()

    def finish(self) -> dict[str, object]:
        """Write `final/`: exactly what was written is evaluated, and stored with it the record of how it was made."""
        learned = learned_tensors(self.wrapped, self.learned)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return {}
        device = self.accelerator.device
        machine = {
            "processes": self.accelerator.num_processes,
            "device": device_name(device),
            "precision": self.precision,
        }
        record = training_record(self.run, self.start, self.data.values(), learned, self.progress, machine)
        return write_final(self.run, self.start, learned, self.load, device, record)

    def _begin(self, stage: Stage, restore: bool) -> torch.optim.Optimizer:
        """Let the stage's parts learn, and wrap the objective; its optimiser."""
        if self.recipe.lora_rank:
            begun = self.recipe.stages[: self.recipe.stages.index(stage) + 1]
            learned = bool(self.start.trained) or any("decoder" in earlier.learn for earlier in begun)
            use_adapters(self.objective.model, learned)
        if stage.from_words and not restore:
            self._start_from_words(stage)
        for name, parameter in self.objective.named_parameters():
            parameter.requires_grad_(learns(name, stage, self.recipe))
        self.wrapped = wrap(self.objective, self.accelerator, self.run.fsdp)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.objective.named_parameters():  # only now: FSDP puts its own in their place
            if parameter.requires_grad:
                decay = self.recipe.weight_decay if parameter.ndim >= 2 else 0.0
                groups.setdefault((decay, rate_factor(name, stage)), []).append(parameter)
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
        teacher = self.objective.teacher
        theirs = teacher.text if teacher and stage.taught else None
        return BatchMaker(parts, self.start.text, self.recipe, self.load, (self.run.seed, number), own, theirs)

    def _step(self, stage: Stage, step: int, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> Row:
        """One optimiser step; the losses and the share of rows answered exactly, over all processes."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        counts = torch.tensor([[b.targets, len(b.input_ids)] for b in batches]).sum(0)
        if processes > 1:
            counts = self.accelerator.reduce(counts.to(device), "sum")
        targets, rows = counts.tolist()
        rate = learning_rate(step, stage)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        sums = torch.zeros(3, device=device)
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
                    losses: Losses = self.wrapped(batch.to(device), stage)
                    (losses.loss * scale).backward()
                sums += torch.stack([losses.answers, losses.divergence, losses.right.sum()])
        if isinstance(counter, FlopCounterMode):
            self.progress.count_flops(stage.name, counter.get_total_flops() * processes)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=self.graphed is None)  # graphs add to gradients where they lie
        answers, apart, right = self.accelerator.reduce(sums, "sum").tolist()
        row: Row = {"loss": answers / max(1, targets), "accuracy": right / rows, "learning_rate": rate}
        if stage.taught:
            row["divergence"] = apart / max(1, targets)
        return row

    @torch.no_grad()
    def _validate(self, stage: Stage) -> float:
        """Share of the held-out training questions that are answered exactly. Every process asks all of them."""
        parts = self.recipe.stages[-1].data or self.recipe.data
        held_out = JoinedSamples([self.data[part].samples[: self.recipe.validation_images] for part in parts])
        right = asked = 0
        for turns, batch in question_batches(held_out, self.start.text, self.load, self.recipe.blind):
            right += int(self.wrapped(batch.to(self.accelerator.device), stage).right.sum())
            asked += len(turns)
        return right / asked

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        learned = learned_tensors(self.wrapped, self.learned)
        state = optimizer_tensors(self.wrapped, optimizer)
        if self.accelerator.is_main_process:
            save_state(self.last, learned, state, self.progress, self.run.identity)
        self.accelerator.wait_for_everyone()
