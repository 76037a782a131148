"""The training loop: deterministic, killable at any moment, resumable to the same result.

A run folder holds `last/` (weights, optimiser state and step, replaced atomically), `metrics.csv`, and at the end
`final/`, the checkpoint to use.
"""

import csv
import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.checkpoints import load_checkpoint, save_checkpoint
from himix_edge.config import ModelConfig, read_json
from himix_edge.data import Dataset
from himix_edge.errors import InputError
from himix_edge.evaluation.teacher_forced import answer_states, answered, encode, exact_match
from himix_edge.files import staged_folder
from himix_edge.model import VisionLanguageModel, build_model
from himix_edge.text import TextProcessor
from himix_edge.training.batches import Batch, BatchMaker
from himix_edge.training.recipe import Recipe
from himix_edge.training.tokenizer import train_tokenizer

OPTIMIZER = "optimizer.safetensors"
TOWER_HEAD = "tower_head.safetensors"
STATE = "train_state.json"
COLUMNS = ("step", "loss", "accuracy", "learning_rate", "validation_accuracy", "seconds")


@dataclass
class Run:
    """What a training run works on."""

    folder: Path
    config: ModelConfig
    recipe: Recipe
    train: Dataset
    test: Dataset | None
    seed: int

    @property
    def identity(self) -> str:
        """Digest of everything that decides the result: `--resume` continues only a run with the same one."""
        what = [
            self.config.to_dict(),
            dataclasses.asdict(self.recipe),
            self.train.name,
            self.train.questions,
            self.seed,
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def train(run: Run, resume: bool = False, stop_after: int | None = None) -> dict[str, Any]:
    """Train, evaluate on the test split, and write `final/`.

    Args:
        run: model, recipe, data, seed and the folder to work in.
        resume: continue from `last/`; the result equals that of an uninterrupted run.
        stop_after: end early after this many steps of this call, as a kill would (for tests).

    Returns:
        The provenance record that is also stored in `final/`; empty if ended early.

    Raises:
        InputError: the folder holds a run already and `resume` is not set, holds a different run, or can't be written.
    """
    torch.manual_seed(run.seed)
    held_out = run.recipe.validation_images
    if len(run.train.samples) <= held_out:
        raise InputError(
            f"{run.train.name}: {len(run.train.samples)} samples are too few; "
            f"{held_out} are held out for validation (--set validation_images=N)"
        )
    validation, samples = run.train.samples[:held_out], run.train.samples[held_out:]
    last = run.folder / "last"
    if resume:
        model, text, head, optimizer, start, seconds = _restore(run, last)
    else:
        if last.exists() or (run.folder / "final").exists():
            raise InputError(f"{run.folder}: holds a training run already; add --resume or choose another --out")
        text = train_tokenizer(_corpus(run.train), run.config.decoder.vocab_size)
        model, start, seconds = build_model(run.config), 0, 0.0
        head = _tower_head(run.config)
        optimizer = _optimizer(model, head, run.recipe)
    for leftover in run.folder.glob(".last.tmp-*"):  # of a killed save
        shutil.rmtree(leftover)

    assert run.config.vision is not None
    batches = BatchMaker(samples, text, run.recipe, run.config.vision, run.seed)
    log = MetricsLog(run.folder / "metrics.csv", keep_steps=start)
    end = run.recipe.steps if stop_after is None else min(run.recipe.steps, start + stop_after)
    began = time.monotonic() - seconds
    with ProgressReport(run, start) as report:
        for step in range(start, end):
            rate = learning_rate(step, run.recipe)
            loss, accuracy = _step(model, head, optimizer, batches.batch(step), rate, run.recipe)
            done = step + 1
            row: dict[str, Any] = {"step": done, "loss": loss, "accuracy": accuracy, "learning_rate": rate}
            if done % run.recipe.evaluate_every == 0:
                right, asked = exact_match(model, text, validation)
                row["validation_accuracy"] = right / asked
            log.add({**row, "seconds": round(time.monotonic() - began, 1)})
            report(row)
            if done % run.recipe.checkpoint_every == 0 or done == run.recipe.steps:
                _save(run, last, model, text, head, optimizer, done, time.monotonic() - began)
    log.close()
    return _finish(run, model, text, time.monotonic() - began) if end == run.recipe.steps else {}


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up to the peak, then a cosine to zero at the last step."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def tower_loss(features: Tensor, head: nn.Linear, labels: Tensor, image_of_label: Tensor) -> Tensor:
    """Cross-entropy of predicting each answer token from its image's mean feature alone, by a linear `head` (d_v -> V).

    A tower that starts from random weights gets its first useful gradients this way: through a decoder that has not
    learned to look, they take many times longer. The head is not part of the model.

    Args:
        features: (I, N, d_v); labels: (K,) token ids; image_of_label: (K,), -1 for a text-only row (left out).
    """
    seen = image_of_label >= 0
    pooled = F.layer_norm(features.float().mean(1), (features.shape[-1],))
    return F.cross_entropy(head(pooled)[image_of_label[seen]].float(), labels[seen])


def _step(
    model: VisionLanguageModel, head: nn.Linear, optimizer: torch.optim.Optimizer, batch: Batch, rate: float,
    recipe: Recipe,
) -> tuple[float, float]:  # fmt: skip
    """One optimiser step; returns the loss of the answers and the share of rows answered exactly."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        features = encode(model, batch)
        logits, labels, rows = answer_states(model, batch, features)
        loss = total = F.cross_entropy(logits, labels)
        if recipe.tower_loss and len(features):
            total = loss + recipe.tower_loss * tower_loss(features, head, labels, batch.image_of_row[rows])
    total.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    right = answered(logits.detach(), labels, rows, len(batch.input_ids))
    return float(loss.detach()), float(right.float().mean())


def _tower_head(config: ModelConfig) -> nn.Linear:
    assert config.vision_hidden_size is not None
    return nn.Linear(config.vision_hidden_size, config.decoder.vocab_size)


def _optimizer(model: VisionLanguageModel, head: nn.Linear, recipe: Recipe) -> torch.optim.AdamW:
    parameters = [*model.parameters(), *head.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def _corpus(dataset: Dataset) -> Iterator[str]:
    for sample in dataset.samples:
        for conversation in sample.conversations:
            for turn in conversation:
                yield turn.question
                yield turn.answer


def _save(
    run: Run,
    last: Path,
    model: VisionLanguageModel,
    text: TextProcessor,
    head: nn.Linear,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    tensors = {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    with staged_folder(last) as staged:
        save_checkpoint(staged / "model", model, text)
        save_file(tensors, staged / OPTIMIZER)
        save_file(head.state_dict(), staged / TOWER_HEAD)
        state = {"step": step, "seconds": seconds, "identity": run.identity, "recipe": dataclasses.asdict(run.recipe)}
        (staged / STATE).write_text(json.dumps(state, indent=2) + "\n")


def _restore(
    run: Run, last: Path
) -> tuple[VisionLanguageModel, TextProcessor, nn.Linear, torch.optim.AdamW, int, float]:
    old = last.with_name(".last.old")
    if not last.exists() and old.exists():  # killed between the two renames of a save
        old.rename(last)
    if not last.exists():
        raise InputError(f"{last}: nothing to resume; start the run without --resume")
    state = read_json(last / STATE)
    if state["identity"] != run.identity:
        raise InputError(f"{last}: made with other settings, data or seed; resume with the same ones or start anew")
    model = load_checkpoint(last / "model").train().requires_grad_(True)
    head = _tower_head(run.config)
    head.load_state_dict(load_file(last / TOWER_HEAD))
    optimizer = _optimizer(model, head, run.recipe)
    restored: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(last / OPTIMIZER).items():
        index, name = key.split(".")
        restored.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})
    return model, TextProcessor.load(last / "model"), head, optimizer, state["step"], state["seconds"]


def _finish(run: Run, model: VisionLanguageModel, text: TextProcessor, seconds: float) -> dict[str, Any]:
    """Round the weights to float16, evaluate exactly those, and write `final/` with the record of how it was made."""
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    provenance: dict[str, Any] = {
        "architecture": run.config.architecture,
        "recipe": dataclasses.asdict(run.recipe),
        "data": {"name": run.train.name, "source": run.train.source, "licence": run.train.licence},
        "seed": run.seed,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if run.test is not None:
        right, asked = exact_match(model.eval(), text, run.test.samples)
        provenance["test"] = {"right": right, "asked": asked, "accuracy": right / asked}
    save_checkpoint(run.folder / "final", model, text, provenance, dtype=torch.float16)
    return provenance


class MetricsLog:
    """metrics.csv, a row a step; on resume rows behind the restored step are dropped."""

    def __init__(self, path: Path, keep_steps: int):
        kept = []
        if keep_steps and path.exists():
            with path.open(newline="") as old:
                kept = [row for row in csv.DictReader(old) if int(row["step"]) <= keep_steps]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, restval="")
        self._writer.writeheader()
        self._writer.writerows(kept)

    def add(self, row: dict[str, Any]) -> None:
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class ProgressReport:
    """A progress bar with loss, accuracy and the last validation accuracy."""

    def __init__(self, run: Run, start: int):
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self.task = self.bar.add_task(run.config.architecture, total=run.recipe.steps, completed=start, note="")
        self.validation = ""
        self.smooth: dict[str, float] = {}

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self.bar.start()
        return self.report

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def report(self, row: dict[str, Any]) -> None:
        for name in ("loss", "accuracy"):
            self.smooth[name] = 0.9 * self.smooth.get(name, row[name]) + 0.1 * row[name]
        if "validation_accuracy" in row:
            self.validation = f"  val {row['validation_accuracy']:.2%}"
            if not self.bar.console.is_terminal:
                self.bar.console.print(f"step {row['step']}  loss {self.smooth['loss']:.4f} {self.validation.strip()}")
        note = f"loss {self.smooth['loss']:.3f}  acc {self.smooth['accuracy']:.1%}{self.validation}"
        self.bar.update(self.task, advance=1, note=note)
