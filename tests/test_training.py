"""Training: deterministic, killable, resumable to the same bits, and it learns."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from himix_edge import load_checkpoint
from himix_edge.data import load_dataset
from himix_edge.data.dataset import Dataset
from himix_edge.errors import InputError
from himix_edge.evaluation.exact import Score, ask_all
from himix_edge.evaluation.teacher_forced import exact_match
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import TextProcessor
from himix_edge.training.batches import IGNORED, BatchMaker
from himix_edge.training.recipe import Recipe
from himix_edge.training.trainer import Run, learning_rate, train
from tests.conftest import TINY

RECIPE = Recipe(
    steps=6, images_per_step=4, conversations_per_image=2, learning_rate=1e-3, warmup_steps=2, precision="float32",
    join=0.3, mirror=True, shift=2, validation_images=4, evaluate_every=3, checkpoint_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    full = load_dataset("easy-vqa", "train")
    return dataclasses.replace(full, samples=full.samples[:40])


def run(folder, data, recipe=RECIPE, architecture="himix", test=None) -> Run:
    return Run(folder, dataclasses.replace(TINY, architecture=architecture), recipe, data, test, seed=3)


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ["himix", "vanilla"])
def test_a_resumed_run_gives_the_same_bits(tmp_path, data, architecture):
    whole, parts = (run(tmp_path / name, data, architecture=architecture) for name in ("whole", "parts"))
    train(whole)
    assert train(parts, stop_after=3) == {}  # the last checkpoint is of step 2
    assert not (parts.folder / "final").exists()
    train(parts, resume=True)
    assert weights(parts.folder) == weights(whole.folder)
    rows = [list(csv.DictReader((r.folder / "metrics.csv").open())) for r in (whole, parts)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_killed_run_resumes(tmp_path):
    command = [sys.executable, "-m", "himix_edge", "train", "--out", str(tmp_path / "run")]
    for setting in ("steps=4", "images_per_step=2", "checkpoint_every=1", "evaluate_every=99", "validation_images=2"):
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("run/final*"))
    load_checkpoint(tmp_path / "run" / "last" / "model")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_resume_needs_the_same_run(tmp_path, data):
    first = run(tmp_path / "run", data)
    with pytest.raises(InputError, match="nothing to resume"):
        train(first, resume=True)
    train(first, stop_after=2)
    with pytest.raises(InputError, match="other settings"):
        train(run(tmp_path / "run", data, dataclasses.replace(RECIPE, learning_rate=1.0)), resume=True)
    with pytest.raises(InputError, match="add --resume"):
        train(first)
    # killed between the two renames of a save: the old state is still there
    shutil.move(first.folder / "last", first.folder / ".last.old")
    train(first, resume=True)
    assert (first.folder / "final").is_dir()


def test_it_learns_and_records_how(tmp_path, data):
    recipe = dataclasses.replace(RECIPE, steps=60, images_per_step=8, learning_rate=3e-3, evaluate_every=1000)
    test = dataclasses.replace(data, samples=data.samples[:3])
    provenance = train(run(tmp_path / "run", data, recipe, test=test))
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open())]
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    assert provenance["recipe"]["steps"] == 60
    assert provenance["data"]["licence"] == "MIT"
    # teacher-forced accuracy is what asking one by one gives
    final = tmp_path / "run" / "final"
    score = Score()
    for turn, given in ask_all(open_checkpoint(final), test):
        score.add(turn, given)
    assert provenance["test"]["right"] == score.right.total()
    right, asked = exact_match(load_checkpoint(final), TextProcessor.load(final), test.samples)
    assert (right, asked) == (score.right.total(), score.asked.total())


def test_batches_depend_on_seed_and_step_alone(data, text):
    one, two = (BatchMaker(data.samples, text, RECIPE, TINY.vision, seed=1) for _ in range(2))
    two.batch(0)
    for a, b in zip(vars(one.batch(5)).values(), vars(two.batch(5)).values(), strict=True):
        assert torch.equal(a, b)
    other = BatchMaker(data.samples, text, RECIPE, TINY.vision, seed=2).batch(5)
    assert not torch.equal(one.batch(5).pixels, other.pixels)


def test_an_epoch_shows_every_image_once(data, text):
    maker = BatchMaker(data.samples, text, RECIPE, TINY.vision, seed=1)
    drawn = [sample.image for step in range(10) for sample in maker._draw(step)]
    assert sorted(drawn) == sorted(sample.image for sample in data.samples)


def test_labels_are_the_next_tokens_of_answers(data, text):
    batch = BatchMaker(data.samples, text, RECIPE, TINY.vision, seed=1).batch(0)
    row, stop = 0, next(iter(text.stop_ids))
    said = [int(t) for t in batch.labels[row] if t != IGNORED]
    assert said[-1] == stop
    for position, label in enumerate(batch.labels[row][:-1].tolist()):
        if label != IGNORED:
            assert batch.input_ids[row, position + 1] in (label, 0)


def test_text_only_samples_train_without_a_vision_segment(tmp_path, data):
    samples = tuple(dataclasses.replace(s, image=None) if i % 2 else s for i, s in enumerate(data.samples))
    train(run(tmp_path / "run", dataclasses.replace(data, samples=samples), dataclasses.replace(RECIPE, steps=2)))


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(step, RECIPE) for step in range(RECIPE.steps + 1)]
    assert rates[0] == RECIPE.learning_rate / 2
    assert max(rates) == RECIPE.learning_rate
    assert rates[-1] == 0


def test_too_little_data_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="too few"):
        train(run(tmp_path / "run", dataclasses.replace(data, samples=data.samples[:4])))
