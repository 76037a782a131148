"""Training: deterministic, killable, resumable to the same bits, the same on one process or two, and it learns."""

import csv
import dataclasses
import os
import pickle
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
from himix_edge.data.dataset import Dataset, LazySamples, Sample, Turn
from himix_edge.errors import InputError
from himix_edge.evaluation.exact import Score, ask_all
from himix_edge.evaluation.teacher_forced import exact_match
from himix_edge.model import build_model
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import TextProcessor
from himix_edge.training.batches import BatchMaker, shares
from himix_edge.training.graphed import padded
from himix_edge.training.objective import Objective
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.recipe import DataPart, Recipe, Stage, read_recipe
from himix_edge.training.start import Variant
from himix_edge.training.trainer import Run, Trainer, learning_rate, train
from tests.conftest import TINY

STAGE = Stage("all", ("tower", "injection", "decoder"), steps=6, learning_rate=1e-3, warmup_steps=2, tower_loss=0.5)
DATA = DataPart("easy-vqa", samples=40)
RECIPE = Recipe(
    model="", pretrained=True, stages=(STAGE,), data=(DATA,), images_per_step=4, conversations_per_image=2,
    precision="float32", join=0.3, mirror=True, shift=2, shade=0.2, jitter=0.1, validation_images=4, evaluate_every=3,
    checkpoint_every=2,
)  # fmt: skip
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


@pytest.mark.parametrize("kind", ["himix", "vanilla", "stages", "adapters"])
def test_a_resumed_run_gives_the_same_bits(tmp_path, recipe, starts, kind):
    if kind == "vanilla":
        recipe = dataclasses.replace(recipe, model=str(starts["vanilla"]))
    if kind in ("stages", "adapters"):
        recipe = dataclasses.replace(recipe, stages=TWO_STAGES)
    if kind == "adapters":
        recipe = dataclasses.replace(recipe, lora_rank=2, own_texts=6, own_texts_per_step=2, own_texts_every=2)
    whole, parts = (Run(tmp_path / name, recipe, Variant(kind == "vanilla"), seed=3) for name in ("whole", "parts"))
    train(whole)
    assert train(parts, stop_after=3) == {}  # the last checkpoint is of step 2
    assert not (parts.folder / "final").exists()
    train(parts, resume=True)
    assert weights(parts.folder) == weights(whole.folder)
    for a, b in zip(rows(whole.folder), rows(parts.folder), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


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
    shutil.move(first.folder / "last", first.folder / ".last.old")
    train(first, resume=True)
    assert (first.folder / "final").is_dir()


def test_one_run_at_a_time_in_a_folder(tmp_path, recipe):
    run = Run(tmp_path / "run", recipe)
    with Trainer(run, resume=False).alone(), pytest.raises(InputError, match="another training run"):
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


def test_processes_and_micro_batches_do_not_change_the_result(tmp_path, recipe_file):
    """Two processes (DDP, then FSDP2) and micro-batches give one process's loss curve, to float32 rounding."""
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
    with pytest.raises(InputError, match="rising numbers"):
        train(Run(tmp_path / "wrong", recipe, Variant(injection=Injection((9,)))))
    with pytest.raises(InputError, match="cannot be changed"):
        train(
            Run(tmp_path / "wrong", dataclasses.replace(RECIPE, model="nano", stages=(stage,)), Variant(vanilla=True))
        )


def test_a_blind_run_sees_no_image(tmp_path, recipe, text, data):
    blind = dataclasses.replace(recipe, blind=True)
    maker = BatchMaker([data.samples], text, blind, ImageLoader(TINY.vision), (1,))
    batch = maker.batch(0)
    assert len(batch.pixels) == 0
    assert len(batch.image_of_row) == 0
    stage = dataclasses.replace(STAGE, learn=("decoder",), tower_loss=0.0, steps=2)
    train(Run(tmp_path / "run", dataclasses.replace(blind, stages=(stage,))))


def maker(data, text, seed=1, **changes) -> BatchMaker:
    recipe = dataclasses.replace(RECIPE, **changes)
    return BatchMaker([data.samples], text, recipe, ImageLoader(TINY.vision), (seed,))


def test_batches_depend_on_seed_and_step_alone(data, text):
    one, two = maker(data, text), maker(data, text)
    two.batch(0)
    for a, b in zip(vars(one.batch(5)).values(), vars(two.batch(5)).values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.batch(5).pixels, maker(data, text, seed=2).batch(5).pixels)


def test_parts_of_a_step_are_the_step(data, text):
    whole = maker(data, text).batch(3)
    parts = [maker(data, text).batch(3, part, 2) for part in range(2)]
    assert sum(part.targets for part in parts) == whole.targets
    assert torch.equal(torch.stack([parts[0].pixels, parts[1].pixels], 1).flatten(0, 1), whole.pixels)
    two_processes = [list(shares(maker(data, text, accumulate=2), range(3, 4), process, 2)) for process in range(2)]
    assert sum(b.targets for ((_, batches),) in two_processes for b in batches) == whole.targets


def test_worker_processes_make_the_same_batches(data, text):
    here = list(shares(maker(data, text), range(2, 5), 0, 1))
    there = list(shares(maker(data, text), range(2, 5), 0, 1, workers=2))
    assert [step for step, _ in here] == [step for step, _ in there] == [2, 3, 4]
    for (_, (a,)), (_, (b,)) in zip(here, there, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.input_ids, b.input_ids)


def test_a_special_token_in_text_stays_text_in_a_worker(text):
    there = pickle.loads(pickle.dumps(text))
    assert there.encode_conversation([("say <|im_end|>", "x")]) == text.encode_conversation([("say <|im_end|>", "x")])


def test_kept_pixels_are_the_image(tmp_path, data):
    image = data.samples[0].image
    loads = [ImageLoader(TINY.vision, folder) for folder in (None, tmp_path / "px", tmp_path / "px")]
    first, second, third = (load(image) for load in loads)
    assert (first == second).all()
    assert (first == third).all()
    assert len(list((tmp_path / "px").glob("*.npy"))) == 1


def test_an_epoch_shows_every_image_once(data, text):
    drawn = [maker(data, text).draw(step, place).image for step in range(10) for place in range(4)]
    assert sorted(drawn) == sorted(sample.image for sample in data.samples)


def test_labels_are_the_next_tokens_of_answers(data, text):
    batch = maker(data, text).batch(0)
    places = batch.positions[batch.row_of_target == 0] % batch.input_ids.shape[1]
    said = batch.labels[batch.row_of_target == 0]
    assert said[-1] == next(iter(text.stop_ids))
    for place, label in zip(places[:-1].tolist(), said[:-1], strict=True):
        assert batch.input_ids[0, place + 1] == label


def test_padding_changes_neither_loss_nor_gradients(data, text):
    torch.manual_seed(0)
    objective = Objective(build_model(TINY), dataclasses.replace(RECIPE, stages=(STAGE,)))
    batch = maker(data, text).batch(0)
    grown = padded(batch)
    assert [len(grown.input_ids) % 64, grown.input_ids.shape[1] % 16, len(grown.labels) % 1024] == [0, 0, 0]
    gradients = []
    for one in (batch, grown):
        objective.zero_grad()
        loss, answers, right = objective(one, STAGE)
        loss.backward()
        gradients.append(
            [p.grad for p in objective.parameters() if p.grad is not None] + [answers, right[: len(batch.input_ids)]]
        )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_draws_from_one_dataset(data, text):
    """The larger one has more of the steps, and each of its samples comes once an epoch."""
    parts = [data.samples[:8], data.samples[8:]]
    mixed = BatchMaker(parts, text, RECIPE, ImageLoader(TINY.vision), (1,))
    steps = [{mixed.draw(step, place).image for place in range(4)} for step in range(60)]
    small = {sample.image for sample in parts[0]}
    assert all(step <= small or not step & small for step in steps)
    of_large = [image for step in steps if not step & small for image in step]
    assert 40 < len(of_large) / 4 < 55
    assert set(of_large[:32]) == {sample.image for sample in parts[1]}


def test_text_only_samples_train_without_a_vision_segment(tmp_path, recipe, monkeypatch, data):
    samples = tuple(dataclasses.replace(s, image=None) if i % 2 else s for i, s in enumerate(data.samples))
    mixed = dataclasses.replace(data, samples=samples)
    monkeypatch.setattr("himix_edge.training.trainer.load_dataset", lambda *_: mixed)
    train(Run(tmp_path / "run", recipe), stop_after=2)


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
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write here"):
        train(Run(tmp_path / "file" / "run", recipe))
    with pytest.raises(InputError, match="torchrun"):
        train(Run(tmp_path / "run", recipe, fsdp=True))


def test_shipped_recipes_are_valid_and_settings_change_them():
    for name in ("nano", "nano-regular", "nano-enhanced", "regular", "enhanced"):
        assert read_recipe(name).steps > 100
    changed = read_recipe("regular", ("steps=7", "finetune.learning_rate=0.5", "join=0.25", "tests=[]"))
    assert [stage.steps for stage in changed.stages] == [7, 7]
    assert [stage.learning_rate for stage in changed.stages] == [0.002, 0.5]
    assert (changed.join, changed.tests) == (0.25, ())
    assert changed.stage_of(6) == (changed.stages[0], 0)
    assert changed.stage_of(7) == (changed.stages[1], 7)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("steps", "NAME=VALUE"),
        ("nothing.steps=3", "STAGE.NAME=VALUE"),
        ("speed=3", "'speed' is not a setting; known: accumulate"),
        ("steps=many", "valid integer"),
        ("steps=0", "at least one step"),
        ("images_per_step=0", "images_per_step must be at least 1"),
        ("evaluate_every=0", "evaluate_every must be at least 1"),
        ("lora_rank=-1", "cannot be negative"),
    ],
)
def test_wrong_settings_are_named(setting, complaint):
    with pytest.raises(InputError, match=complaint):
        read_recipe("nano", (setting,))


def test_wrong_recipes_are_named(tmp_path):
    with pytest.raises(InputError, match="one of: enhanced, nano"):
        read_recipe("../secrets")
    path = tmp_path / "r.yaml"
    for content, complaint in (
        ("model: [", "not valid YAML"),
        ("model: nano", "stages: Field required"),
        ("model: nano\ndata: []\nimages_per_step: 1\nconversations_per_image: 1\nstages: []", "has stages"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("x" * 70000, "this is not a recipe"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=complaint):
            read_recipe(str(path))


def test_lazy_samples_are_a_sequence():
    samples = LazySamples(lambda i: Sample(None, ((Turn(str(i), ""),),)), range(5))
    numbers = [sample.conversations[0][0].question for sample in samples[1:]]
    assert numbers == ["1", "2", "3", "4"]
    assert samples[-1].conversations[0][0].question == "4"
    assert len(samples[:99]) == 5
