"""Training: deterministic, killable, resumable to the same bits, the same on one process or two, and it learns."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from himix_edge import load_checkpoint
from himix_edge.checkpoints import save_checkpoint
from himix_edge.config import Injection
from himix_edge.data import load_dataset
from himix_edge.data.dataset import Dataset
from himix_edge.errors import InputError
from himix_edge.evaluation.exact import Score, ask_all
from himix_edge.model import build_model
from himix_edge.runtimes import open_checkpoint
from himix_edge.staging import staging
from himix_edge.text import TextProcessor
from himix_edge.training.batches import BatchMaker
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.rates import learning_rate
from himix_edge.training.recipe import DataPart, Recipe, Stage
from himix_edge.training.run import Run
from himix_edge.training.start import Variant
from himix_edge.training.trainer import Trainer, train
from tests.asking import exact_match
from tests.conftest import TINY
from tests.training.tiny_recipe import RECIPE, STAGE

TWO_STAGES = (
    Stage("injection", ("injection",), steps=2, learning_rate=1e-3, warmup_steps=1),
    Stage("finetune", ("injection", "decoder"), steps=3, learning_rate=1e-2, warmup_steps=1, decoder_rate=0.5),
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("easy-vqa").first(40)


@pytest.fixture(scope="module")
def starts(tmp_path_factory, text) -> dict[str, Path]:
    """Checkpoints to begin with: tiny, random, of both architectures."""
    folders = {}
    for architecture in ("himix", "vanilla"):
        torch.manual_seed(0)
        folders[architecture] = tmp_path_factory.mktemp("starts") / architecture
        save_checkpoint(folders[architecture], build_model(dataclasses.replace(TINY, architecture=architecture)), text)
    return folders


@pytest.fixture
def recipe(starts) -> Recipe:
    return dataclasses.replace(RECIPE, model=str(starts["himix"]))


@pytest.fixture
def recipe_file(tmp_path, starts) -> Path:
    """RECIPE as a person would write it."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {starts['himix']}\npretrained: true\nimages_per_step: 4\nconversations_per_image: 2\n"
        "precision: float32\nvalidation_images: 4\nevaluate_every: 2\ncheckpoint_every: 2\n"
        "data:\n  - {name: easy-vqa, samples: 40}\n"
        "stages:\n  - {name: all, learn: [tower, injection, decoder], steps: 4, learning_rate: 1.0e-3}\n"
    )
    return path


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def himix(*words, launcher=(sys.executable,), **settings):
    """Run the command line as a person would."""
    command = [*launcher, "-m", "himix_edge", "train", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})


@pytest.mark.parametrize("kind", ["himix", "vanilla", "stages", "adapters", "words", "vanilla words"])
def test_a_resumed_run_gives_the_same_bits(tmp_path, recipe, starts, kind):
    vanilla = "vanilla" in kind
    if vanilla:
        recipe = dataclasses.replace(recipe, model=str(starts["vanilla"]))
    if "words" in kind:  # vanilla is resumed where its second stage begins, HiMix within it
        first = dataclasses.replace(STAGE, name="tower", learn=("tower",), answer_loss=0.0, steps=1 + vanilla)
        recipe = dataclasses.replace(recipe, stages=(first, dataclasses.replace(STAGE, from_words=True, steps=3)))
    if kind in ("stages", "adapters"):
        recipe = dataclasses.replace(recipe, stages=TWO_STAGES)
    if kind == "adapters":
        recipe = dataclasses.replace(recipe, lora_rank=2, own_texts=6, own_texts_per_step=2, own_texts_every=2)
    whole, parts = (Run(tmp_path / name, recipe, Variant(vanilla), seed=3) for name in ("whole", "parts"))
    train(whole)
    assert train(parts, stop_after=3) == {}  # the last checkpoint is of step 2
    assert not (parts.folder / "final").exists()
    train(parts, resume=True)
    assert weights(parts.folder) == weights(whole.folder)
    for a, b in zip(rows(whole.folder), rows(parts.folder), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    if "words" in kind:
        without = dataclasses.replace(recipe, stages=(first, dataclasses.replace(STAGE, steps=3)))
        other = dataclasses.replace(whole, folder=tmp_path / "without", recipe=without)
        train(other)
        assert float(rows(whole.folder)[-1]["loss"]) != float(rows(other.folder)[-1]["loss"])


def test_a_killed_run_resumes(tmp_path, recipe_file):
    command = [
        sys.executable,
        "-m",
        "himix_edge",
        "train",
        "--recipe",
        str(recipe_file),
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--set", "checkpoint_every=1", "--set", "steps=400"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("run/final*"))
    assert load_file(tmp_path / "run" / "last" / "learned.safetensors")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_resume_needs_the_same_run(tmp_path, recipe):
    first = Run(tmp_path / "run", recipe)
    with pytest.raises(InputError, match="nothing to resume"):
        train(first, resume=True)
    train(first, stop_after=2)
    with pytest.raises(InputError, match="other settings"):
        train(Run(tmp_path / "run", dataclasses.replace(recipe, gradient_clip=2.0)), resume=True)
    with pytest.raises(InputError, match="add --resume"):
        train(first)
    # killed between the two renames of a save: the old state is still there
    beside = first.folder / ".last.himix"
    beside.mkdir(mode=0o700)
    (beside / "lock").touch()
    (beside / "new").mkdir()
    shutil.move(first.folder / "last", beside / "old")
    train(first, resume=True)
    assert (first.folder / "final").is_dir()
    assert not beside.exists()


def test_one_run_at_a_time_in_a_folder(tmp_path, recipe):
    run = Run(tmp_path / "run", recipe)
    with staging(run.folder), pytest.raises(InputError, match="another training run"):
        train(run)
    train(run, stop_after=1)


def test_own_texts_hold_the_language(tmp_path, recipe):
    """While the adapters are fresh there is nothing to hold; what they change costs, and only they can give way."""
    recipe = dataclasses.replace(recipe, stages=TWO_STAGES, lora_rank=2, own_texts=6, own_texts_per_step=2)
    trainer = Trainer(Run(tmp_path / "run", recipe), resume=False)
    trainer._begin(TWO_STAGES[1], restore=False)
    objective = trainer.objective
    assert objective._own_texts(trainer.own_texts).item() == pytest.approx(0, abs=1e-4)
    second = [p for name, p in objective.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for parameter in second:
            parameter.normal_(std=0.05)
    cost = objective._own_texts(trainer.own_texts)
    assert cost.item() > 0.1
    cost.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in second)


def test_a_towers_words_are_those_of_its_data(tmp_path, recipe, data):
    part = DataPart("easy-vqa", samples=20)
    stage = dataclasses.replace(STAGE, learn=("tower",), answer_loss=0.0, data=(part,))
    recipe = dataclasses.replace(recipe, stages=(stage, dataclasses.replace(STAGE, name="last", tower_loss=0.0)))
    trainer = Trainer(Run(tmp_path / "run", recipe), resume=False)
    text = trainer.start.text
    answers = {turn.answer for sample in data.first(20).samples for (turn,) in sample.conversations}
    words = {token for answer in answers for token in text.tokenizer.encode(answer).ids} | text.stop_ids
    column = trainer.objective.head.column
    assert {token for token in range(len(column)) if column[token] < len(words)} == words
    assert sorted(column.tolist())[: len(words)] == list(range(len(words)))
    without = dataclasses.replace(recipe, stages=recipe.stages[1:])
    assert Trainer(Run(tmp_path / "other", without), resume=False).objective.head is None


def test_it_learns_and_records_how(tmp_path, recipe, data):
    stage = dataclasses.replace(STAGE, steps=60, learning_rate=3e-3)
    recipe = dataclasses.replace(
        recipe, stages=(stage,), images_per_step=8, jitter=0.0, evaluate_every=1000, tests=(DataPart("easy-vqa", 3),)
    )
    run = Run(tmp_path / "run", recipe)
    provenance = train(run)
    losses = [float(row["loss"]) for row in rows(run.folder)]
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    assert provenance["recipe"]["stages"][0]["steps"] == 60
    assert provenance["data"][0]["licence"] == "MIT"
    assert provenance["flops"]["all"] > 60 * 6 * 100 * provenance["parameters"]  # 6 FLOPs a parameter and token
    assert (run.folder / "metrics.png").stat().st_size > 10_000
    # teacher-forced accuracy is what asking one by one gives
    final, test = run.folder / "final", data.first(3)
    score = Score()
    for turn, given in ask_all(open_checkpoint(final), test):
        score.add(turn, given)
    (result,) = provenance["tests"].values()
    assert (result["right"], result["asked"]) == (score.right.total(), score.asked.total())
    right, asked = exact_match(load_checkpoint(final), TextProcessor.load(final), test.samples)
    assert (right, asked) == (score.right.total(), score.asked.total())


def test_a_stage_changes_what_it_names_and_nothing_else(tmp_path, recipe, starts):
    before = load_checkpoint(starts["himix"]).state_dict()
    for learn, rank in ((("injection",), 0), (("tower",), 0), (("decoder",), 0), (("decoder",), 2)):
        stage = dataclasses.replace(STAGE, learn=learn, steps=2, learning_rate=1e-2, warmup_steps=1)
        folder = tmp_path / f"{learn[0]}-{rank}"
        train(Run(folder, dataclasses.replace(recipe, stages=(stage,), lora_rank=rank)))
        after = load_checkpoint(folder / "final").state_dict()
        changed = {name for name in before if (before[name] - after[name]).abs().max() > 2e-3}  # more than float16's
        parts = {
            "tower" if n.startswith("vision_tower") else "injection" if "_img" in n else "decoder" for n in changed
        }
        assert parts == set(learn)
        if rank:
            assert not any("norm" in name or "embed" in name for name in changed)


@pytest.mark.slow
def test_processes_and_micro_batches_do_not_change_the_result(tmp_path, recipe_file):
    """Two processes (DDP, then FSDP2) and micro-batches give one process's loss curve, to float32 rounding.

    Slow: adds several processes.
    """
    one, two, shared, micro = (tmp_path / name for name in ("one", "two", "shared", "micro"))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    cpu = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    results = [
        himix("--recipe", recipe_file, "--out", one, **cpu),
        himix("--recipe", recipe_file, "--out", two, launcher=launcher, **cpu),
        himix("--recipe", recipe_file, "--out", shared, "--fsdp", launcher=launcher, **cpu),
        himix("--recipe", recipe_file, "--out", micro, "--set", "accumulate=2", **cpu),
    ]
    for result in results:
        assert result.returncode == 0, result.stderr
    assert rows(one)
    for other in (two, shared, micro):
        for a, b in zip(rows(one), rows(other), strict=True):
            assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)
            assert a["accuracy"] == b["accuracy"]
            assert a["validation_accuracy"] == b["validation_accuracy"]
    whole = load_checkpoint(one / "final").state_dict()
    for other in (two, shared):
        for name, tensor in load_checkpoint(other / "final").state_dict().items():
            torch.testing.assert_close(tensor, whole[name], atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_compiled_layers_learn_the_same(tmp_path, recipe):
    """Takes a minute to compile; adds that torch.compile's layers compute what the model's do."""
    recipe = dataclasses.replace(recipe, stages=TWO_STAGES, lora_rank=2)
    plain, compiled = Run(tmp_path / "plain", recipe), Run(tmp_path / "compiled", recipe, compile=True)
    train(plain)
    train(compiled)
    for a, b in zip(rows(plain.folder), rows(compiled.folder), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)


def test_variants_train_from_nothing(tmp_path):
    stage = Stage("all", ("tower", "injection", "decoder"), steps=1, learning_rate=1e-3)
    recipe = dataclasses.replace(RECIPE, model="nano", pretrained=False, stages=(stage,))
    layers = Variant(injection=Injection((1, 3)))
    levels = Variant(injection=Injection(None, "levels"), feature_layers=(-3, -1))
    for name, variant in {"layers": layers, "levels": levels, "pooled": Variant(pooling=2)}.items():
        train(Run(tmp_path / name, recipe, variant))
        config = load_checkpoint(tmp_path / name / "final").config
        assert config.injection == variant.injection
        assert config.vision.num_tokens == 64 // variant.pooling**2
    with pytest.raises(InputError, match=r"nano: .*rising numbers in 0\.\.3, not \[9\]"):
        train(Run(tmp_path / "wrong", recipe, Variant(injection=Injection((9,)))))
    with pytest.raises(InputError, match="cannot be changed"):
        train(
            Run(tmp_path / "wrong", dataclasses.replace(RECIPE, model="nano", stages=(stage,)), Variant(vanilla=True))
        )


@pytest.mark.parametrize(("architecture", "layers"), [("himix", {"1"}), ("vanilla", {"0", "1"})])
def test_adapters_begin_at_the_named_layer_of_himix_and_are_in_all_of_vanilla(
    tmp_path, recipe, starts, architecture, layers
):
    model = str(starts[architecture])
    recipe = dataclasses.replace(recipe, model=model, stages=TWO_STAGES, lora_rank=2, lora_first_layer=1)
    run = Run(tmp_path / "run", recipe, Variant(architecture == "vanilla"))
    train(run)
    start = load_checkpoint(Path(recipe.model)).state_dict()
    learned = load_checkpoint(run.folder / "final").state_dict()
    kept = {name: tensor.half().float() for name, tensor in start.items()}  # as they are stored
    changed = {name for name, tensor in learned.items() if not torch.equal(tensor, kept[name])}
    decoder = {name for name in changed if "_img" not in name and "connector" not in name}
    assert all(name.startswith("model.layers.") for name in decoder)
    assert {name.split(".")[2] for name in decoder} == layers


def test_a_blind_run_sees_no_image(tmp_path, recipe, text, data):
    blind = dataclasses.replace(recipe, blind=True)
    maker = BatchMaker([data.samples], text, blind, ImageLoader(TINY.vision), (1,))
    batch = maker.batch(0)
    assert len(batch.pixels) == 0
    assert len(batch.image_of_row) == 0
    stage = dataclasses.replace(STAGE, learn=("decoder",), tower_loss=0.0, steps=2)
    train(Run(tmp_path / "run", dataclasses.replace(blind, stages=(stage,))))


def test_text_only_samples_train_without_a_vision_segment(tmp_path, recipe, monkeypatch, data):
    samples = tuple(dataclasses.replace(s, image=None) if i % 2 else s for i, s in enumerate(data.samples))
    mixed = dataclasses.replace(data, samples=samples)
    monkeypatch.setattr("himix_edge.training.run.load_dataset", lambda *_: mixed)
    train(Run(tmp_path / "run", recipe), stop_after=2)
    assert all(0 < float(row["loss"]) < 20 for row in rows(tmp_path / "run"))
    assert len(rows(tmp_path / "run")) == 2


def test_the_images_keys_learn_at_a_rate_of_their_own(tmp_path, recipe, starts):
    before = load_checkpoint(starts["himix"]).state_dict()
    stage = dataclasses.replace(STAGE, learn=("injection",), steps=2, learning_rate=1e-2, warmup_steps=1, key_rate=0.0)
    train(Run(tmp_path / "run", dataclasses.replace(recipe, stages=(stage,))))
    after = load_checkpoint(tmp_path / "run" / "final").state_dict()
    changed = {name.split(".")[-2] for name in before if (before[name] - after[name]).abs().max() > 2e-3}
    assert changed == {"v_proj_img", "input_layernorm_img"}


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(step, STAGE) for step in range(STAGE.steps + 1)]
    assert rates[0] == STAGE.learning_rate / 2
    assert max(rates) == STAGE.learning_rate
    assert rates[-1] == 0


def test_too_little_data_is_refused(tmp_path, recipe):
    with pytest.raises(InputError, match="too few"):
        train(Run(tmp_path / "run", dataclasses.replace(recipe, data=(DataPart("easy-vqa", 4),))))
    with pytest.raises(InputError, match="too few for so many micro-batches"):
        train(Run(tmp_path / "run", dataclasses.replace(recipe, accumulate=5)))
    with pytest.raises(InputError, match="has its injection already"):
        train(Run(tmp_path / "run", recipe, Variant(pooling=2)))
    said = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
    (tmp_path / "texts.json").write_text(json.dumps([{"id": str(i), "conversations": said} for i in range(9)]))
    with pytest.raises(InputError, match=r"no image in its first .* tower_loss"):
        train(Run(tmp_path / "run", dataclasses.replace(recipe, data=(DataPart(str(tmp_path / "texts.json")),))))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write here"):
        train(Run(tmp_path / "file" / "run", recipe))
    with pytest.raises(InputError, match="torchrun"):
        train(Run(tmp_path / "run", recipe, fsdp=True))
