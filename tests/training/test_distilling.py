"""A student and its teacher: what is zero where they are equal, that it learns, and to the same bits when resumed."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Categorical, kl_divergence

from himix_edge import load_checkpoint
from himix_edge.checkpoints import open_source, save_checkpoint, save_source
from himix_edge.cli import himix
from himix_edge.config import Injection
from himix_edge.distillation.student import make_student
from himix_edge.errors import InputError
from himix_edge.model import build_model
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import TextProcessor
from himix_edge.training import conversations
from himix_edge.training.batches import shares
from himix_edge.training.objective import Losses
from himix_edge.training.recipe import DataPart, Stage, read_recipe
from himix_edge.training.run import Run
from himix_edge.training.teacher import Said, attention_distance, divergence
from himix_edge.training.tokenizer import train_tokenizer
from himix_edge.training.trainer import Trainer, train
from tests.conftest import TINY
from tests.training.tiny_recipe import RECIPE

TAUGHT = Stage("injection", ("injection",), 2, 1e-3, warmup_steps=1, answer_loss=0.0, teacher_loss=1.0)
STAGES = (TAUGHT, dataclasses.replace(TAUGHT, name="finetune", learn=("injection", "decoder"), attention_loss=0.5))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, text) -> dict[str, Path]:
    """A random vanilla teacher, and students of it: exact, with fresh projections; and pictures."""
    made = {name: tmp_path_factory.mktemp("distilling") / name for name in ("teacher", "exact", "fresh", "pictures")}
    torch.manual_seed(0)
    vanilla = build_model(dataclasses.replace(TINY, architecture="vanilla"))
    with torch.no_grad():
        vanilla.connector[-1].weight.mul_(8)  # whose answers the image decides
    save_checkpoint(made["teacher"], vanilla, text)
    teacher = open_source(made["teacher"])
    save_source(made["exact"], make_student(teacher, Injection(positions="sequence", mixing=2), None, list).source)
    save_source(made["fresh"], make_student(teacher, Injection(positions="sequence"), None, list, fresh=0).source)
    (made["pictures"] / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (2, 2, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(made["pictures"] / ("more" if number < 3 else ".") / f"{number}.png")
    return made


def recipe_of(folders, student, **changes):
    names = {"model": str(folders[student]), "teacher": str(folders["teacher"])}
    return dataclasses.replace(RECIPE, **{**names, "stages": STAGES, "lora_rank": 2, **changes})


def losses_of(trainer, stage=STAGES[1]):
    """Of the first step's batches, and how many targets they have."""
    trainer._begin(stage, restore=False)
    ((_, batches),) = shares(trainer._maker(stage), range(1), 0, 1)
    found = [trainer.objective(batch, stage) for batch in batches]
    return [Losses(*(part.detach() for part in losses)) for losses in found], sum(batch.targets for batch in batches)


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path, folders):
    """The teacher made a HiMix model by copying all of it: equal to rounding, as is the same model twice."""
    (found,), targets = losses_of(Trainer(Run(tmp_path / "run", recipe_of(folders, "exact")), resume=False))
    assert float(found.divergence) / targets == pytest.approx(0, abs=1e-6)
    assert float(found.loss) / targets == pytest.approx(0, abs=1e-6)
    assert float(found.answers) / targets > 1
    itself = recipe_of(folders, "fresh", teacher=str(folders["fresh"]))
    (found,), _ = losses_of(Trainer(Run(tmp_path / "other", itself), resume=False))
    assert float(found.loss) == pytest.approx(0, abs=1e-5)
    (found,), targets = losses_of(Trainer(Run(tmp_path / "fresh", recipe_of(folders, "fresh")), resume=False))
    assert float(found.divergence) / targets > 1e-3
    assert float(found.loss) > float(found.divergence)  # and what its layers attend to is different


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_losses_are_those_of_their_definitions(temperature):
    torch.manual_seed(0)
    logits, asked = torch.randn(2, 5, 7), torch.tensor([True, True, False, True, True])
    attended = torch.randn(2, 3, 5, 4)
    student, teacher = (Said(logits[i], tuple(attended[i])) for i in range(2))
    expected = kl_divergence(*(Categorical(logits=logits[i] / temperature) for i in (1, 0)))[asked].sum()
    assert float(divergence(student, teacher, asked, temperature)) == pytest.approx(float(expected) * temperature**2)
    shares = (attended[0] - attended[1]).norm(dim=-1) ** 2 / attended[1].norm(dim=-1) ** 2
    assert float(attention_distance(student, teacher, asked)) == pytest.approx(float(shares[:, asked].sum()) / 3)


def test_micro_batches_have_the_losses_of_the_whole(tmp_path, folders):
    whole, parts = (
        losses_of(Trainer(Run(tmp_path / f"{n}", recipe_of(folders, "fresh", accumulate=n)), resume=False))[0]
        for n in (1, 2)
    )
    assert (len(whole), len(parts)) == (1, 2)
    for name in ("loss", "answers", "divergence"):
        total = sum(float(getattr(part, name)) for part in parts)
        assert total == pytest.approx(float(getattr(whole[0], name)), rel=1e-4)


def test_it_comes_closer_and_the_teacher_stays(tmp_path, folders):
    stage = dataclasses.replace(TAUGHT, steps=40, learning_rate=1e-2)
    run = Run(tmp_path / "run", recipe_of(folders, "fresh", stages=(stage,), lora_rank=0, evaluate_every=20))
    before = (folders["teacher"] / "model.safetensors").read_bytes()
    record = train(run)
    apart = [float(row["divergence"]) for row in rows(run.folder)]
    assert sum(apart[-5:]) < 0.5 * sum(apart[:5])
    assert rows(run.folder)[19]["validation_accuracy"]
    assert (folders["teacher"] / "model.safetensors").read_bytes() == before
    assert record["recipe"]["teacher"] == str(folders["teacher"])
    assert record["before"]["converted"]["to"] == "himix"
    kept = load_checkpoint(folders["teacher"]).state_dict()
    learned = load_checkpoint(run.folder / "final").state_dict()
    assert all(torch.equal(learned[n], kept[n].half().float()) for n in kept if n in learned)


def test_about_pictures_alone_the_teacher_writes_and_a_resumed_run_gives_the_same_bits(tmp_path, folders, monkeypatch):
    monkeypatch.setattr(conversations, "ANSWER_TOKENS", 8)
    data = (DataPart(str(folders["pictures"])),)
    recipe = recipe_of(folders, "fresh", data=data, prompts=("What is it?", "Where?", "Why?"))
    whole, parts = (Run(tmp_path / name, recipe, seed=3) for name in ("whole", "parts"))
    train(whole)
    assert train(parts, stop_after=3) == {}
    train(parts, resume=True)
    one, other = (run.folder / "final" / "model.safetensors" for run in (whole, parts))
    assert one.read_bytes() == other.read_bytes()
    assert [{**row, "seconds": 0} for row in rows(parts.folder)] == [{**r, "seconds": 0} for r in rows(whole.folder)]
    records = json.loads((whole.folder / "conversations.json").read_text())
    prompts = [record["conversations"][0]["value"] for record in records[:4]]
    assert prompts == ["What is it?", "Where?", "Why?", "What is it?"]
    assert [record["image"] for record in records[:3]] == ["3.png", "3.png", "4.png"]
    session = open_checkpoint(folders["teacher"])
    for record in records[:2]:
        asked, said = (message["value"] for message in record["conversations"])
        assert said == session.answer(asked, folders["pictures"] / record["image"], 8)


def test_a_tower_that_learns_leaves_the_teacher_its_own(tmp_path, folders):
    frozen = Trainer(Run(tmp_path / "frozen", recipe_of(folders, "exact")), resume=False)
    assert not frozen.objective.teacher.has_tower
    stages = (dataclasses.replace(TAUGHT, learn=("tower",)), STAGES[1])
    trainer = Trainer(Run(tmp_path / "run", recipe_of(folders, "exact", stages=stages)), resume=False)
    assert trainer.objective.teacher.has_tower
    with torch.no_grad():
        for parameter in trainer.objective.model.vision_tower.parameters():
            parameter.mul_(1.5)
    assert float(losses_of(trainer)[0][0].divergence) > 0.01


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": ""}, "no teacher to learn from"),
    ({"teacher": "nano"}, "sees images of 64 pixels"),
    ({"stages": (dataclasses.replace(TAUGHT, teacher_loss=0.0, answer_loss=1.0),)}, "no stage learns from a teacher"),
    ({"model": ""}, "names no model"), ({"teacher": "nowhere"}, "nowhere"),
    ({"data": (DataPart("PICTURES"),)}, "nothing to ask about the pictures"),
    ({"data": (DataPart("PICTURES"),), "teacher": ""}, "pictures alone"),
    ({"data": (DataPart("PICTURES"), DataPart("PICTURES", 4))}, "one folder of pictures"),
])  # fmt: skip
def test_what_cannot_be_learned_is_said_before_it_begins(tmp_path, folders, changes, message):
    if "data" in changes:
        parts = [dataclasses.replace(part, name=str(folders["pictures"])) for part in changes["data"]]
        changes = {**changes, "data": tuple(parts)}
    with pytest.raises(InputError, match=message):
        train(Run(tmp_path / "run", recipe_of(folders, "exact", **changes)))
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_other_words_or_layers_is_refused(tmp_path, folders, text):
    folder = tmp_path / "other"
    shutil.copytree(folders["teacher"], folder)
    other = train_tokenizer(["entirely other words than those"] * 9, TINY.decoder.vocab_size)
    other.save(folder)
    with pytest.raises(InputError, match="differ in tokenizer or chat template"):
        train(Run(tmp_path / "run", recipe_of(folders, "exact", teacher=str(folder))))
    template = dataclasses.replace(text.template, user=("<|im_start|>user: ", "<|im_end|>\n"))
    TextProcessor(text.tokenizer, template).save(folder)
    with pytest.raises(InputError, match="differ in tokenizer or chat template"):
        train(Run(tmp_path / "run", recipe_of(folders, "exact", teacher=str(folder))))
    decoder = dataclasses.replace(TINY.decoder, num_hidden_layers=3)
    deeper = dataclasses.replace(TINY, architecture="vanilla", decoder=decoder)
    save_checkpoint(tmp_path / "deeper", build_model(deeper), text)
    with pytest.raises(InputError, match="3 layers, the student 2: --set attention_loss=0"):
        train(Run(tmp_path / "run", recipe_of(folders, "exact", teacher=str(tmp_path / "deeper"))))
    with pytest.raises(InputError, match="--compile: attention_loss"):
        train(Run(tmp_path / "run", recipe_of(folders, "exact"), compile=True))


def test_the_command(tmp_path, folders, capsys):
    words = ["distill", "--teacher", folders["teacher"], "--student", folders["exact"], "--data", folders["pictures"],
             "--limit", "3", "--out", tmp_path / "run", "--set", "steps=1", "--set", "lora_rank=2", "--set",
             "own_texts=0", "--set", "validation_images=2", "--prompts", tmp_path / "asked.txt"]  # fmt: skip

    def run(*more):
        himix.main([str(word) for word in (*words, *more)], standalone_mode=False)

    (tmp_path / "asked.txt").write_text("What is it?\n\nWhere is it?\n")
    run("--temperature", 2, "--json")
    record = json.loads(capsys.readouterr().out)
    assert (record["recipe"]["temperature"], record["recipe"]["prompts"]) == (2.0, ["What is it?", "Where is it?"])
    assert len(json.loads((tmp_path / "run" / "conversations.json").read_text())) == 3 * 2
    assert record["before"]["converted"]["source"]
    with pytest.raises(InputError, match="--resume"):
        run()
    (tmp_path / "asked.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no prompts"):
        run("--force")
    with pytest.raises(InputError, match="give one of them"):
        run("--force", "--resume")


@pytest.mark.slow
def test_processes_share_what_a_teacher_says(tmp_path, folders):
    """Two processes (DDP, then FSDP2) and one: the same losses, to float32 rounding. Slow: adds several processes."""
    settings = ("steps=2", "lora_rank=2", "own_texts=0", "validation_images=4", "images_per_step=4", "attention_loss=1")
    words = [sys.executable, "-m", "himix_edge", "distill", "--teacher", folders["teacher"], "--student",
             folders["fresh"], "--data", folders["pictures"], *(f"--set={one}" for one in settings)]  # fmt: skip
    two = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    runs = {"one": [], "two": two, "shared": two}
    for name, launcher in runs.items():
        command = [words[0], *launcher, *words[1:], *(["--fsdp"] if name == "shared" else []), "--out", tmp_path / name]
        cpu = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=cpu)
        assert done.returncode == 0, done.stderr
    for name in ("two", "shared"):
        for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / name), strict=True):
            for column in ("loss", "divergence"):
                assert float(a[column]) == pytest.approx(float(b[column]), rel=1e-4)


def test_the_shipped_recipe_moves_the_injection_first():
    recipe = read_recipe("distill")
    assert [stage.learn for stage in recipe.stages] == [("injection",), ("injection", "decoder")]
    assert all(stage.taught and not stage.answer_loss for stage in recipe.stages)
    assert recipe.prompts
