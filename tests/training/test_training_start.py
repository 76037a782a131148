"""What a training run begins with: a fresh model's vocabulary, fresh weights beside a base's, and the precision that
the device computes in."""

import dataclasses

import pytest
import torch

from himix_edge import load_checkpoint
from himix_edge.config import Injection
from himix_edge.data import load_dataset
from himix_edge.training.processes import computes_bfloat16
from himix_edge.training.recipe import Recipe
from himix_edge.training.run import Run
from himix_edge.training.start import Variant, start
from himix_edge.training.trainer import Trainer, train
from tests.training.tiny_recipe import RECIPE, STAGE


def test_a_fresh_model_has_the_tokens_that_its_recipe_asks_for():
    recipe = dataclasses.replace(RECIPE, model="nano", pretrained=False, vocab_size=400)
    dataset = load_dataset("emoji-scenes-few").first(200)
    begun = start(recipe, Variant(), [dataset], seed=0)
    assert begun.model.config.decoder.vocab_size == len(begun.model.model.embed_tokens.weight) == 400
    turns = [turn for sample in dataset.samples for (turn,) in sample.conversations]
    tokens = {token for turn in turns for token in begun.text.encode_conversation([(turn.question, turn.answer)])[0]}
    assert max(tokens) == 399  # up to the last one
    usual = start(dataclasses.replace(recipe, vocab_size=None), Variant(), [dataset], seed=0)
    assert usual.model.config.decoder.vocab_size == 512


def test_injection_is_in_the_recipes_layers_where_the_variant_names_none():
    recipe = dataclasses.replace(RECIPE, model="nano", pretrained=False, injection_layers=(1, 3))
    dataset = load_dataset("emoji-scenes-few").first(200)

    def injection(variant: Variant, recipe: Recipe = recipe) -> Injection:
        return start(recipe, variant, [dataset], seed=0).model.config.injection

    assert injection(Variant()) == Injection((1, 3))
    assert injection(Variant(injection=Injection(None, "uniform"))) == Injection((1, 3), "uniform")
    assert injection(Variant(injection=Injection((2,)))) == Injection((2,))
    assert injection(Variant(vanilla=True)) == Injection()
    trained = dataclasses.replace(recipe, model="nano", pretrained=True)  # the shipped one, which has its own
    assert injection(Variant(), trained) == Injection()


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"bf16": True, "neon": True}, "bfloat16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "float32"),
    ],
)
def test_precision_is_what_the_cpu_computes_in(tmp_path, monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert computes_bfloat16(torch.device("cpu")) == (precision == "bfloat16")
    recipe = dataclasses.replace(RECIPE, model="nano", pretrained=False, precision="auto")
    trainer = Trainer(Run(tmp_path / "run", recipe), resume=False)
    assert (trainer.precision, trainer.objective.in_bfloat16) == (precision, precision == "bfloat16")


@pytest.mark.slow
def test_fresh_weights_that_never_learn_are_stored_too(tmp_path):
    """The real base: it brings decoder and tower, and what it lacks must come with the run. Slow: adds real weights."""
    stage = dataclasses.replace(STAGE, learn=("decoder",), tower_loss=0.0, steps=1)
    recipe = dataclasses.replace(
        RECIPE, model="smollm2-135m", chat_template="chatml", stages=(stage,), lora_rank=2, blind=True
    )
    run = Run(tmp_path / "run", recipe, Variant(injection=Injection((8,))))
    begun = start(recipe, run.variant, [], run.seed).model.state_dict()
    train(run)
    ended = load_checkpoint(run.folder / "final").state_dict()
    fresh = {name for name in begun if "_img" in name}
    assert len(fresh) == 3
    for name in fresh:
        assert torch.equal(ended[name], begun[name].half().float()), name
