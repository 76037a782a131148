"""Going on from a checkpoint that holds only what was trained: the model is the same, and so is what is stored."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from himix_edge import load_checkpoint
from himix_edge.checkpoints import save_trained
from himix_edge.checkpoints.assemble import model_weights
from himix_edge.checkpoints.trained import Base, read_base
from himix_edge.errors import InputError
from himix_edge.training.recipe import Stage
from himix_edge.training.run import Run
from himix_edge.training.trainer import Trainer, train
from tests.conftest import TINY
from tests.training.tiny_recipe import RECIPE

STAGE = Stage("all", ("injection", "decoder"), steps=2, learning_rate=1e-2, warmup_steps=1)
IDS = torch.tensor([[1, 5, 9]])


@pytest.fixture
def earlier(tmp_path, tiny_checkpoint, text, monkeypatch):
    """A checkpoint with adapters of rank 2, scaled by 2, an injection and a tower that learned."""
    weights = model_weights(load_checkpoint(tiny_checkpoint))
    for module in ("checkpoints.source", "training.start"):
        monkeypatch.setattr(f"himix_edge.{module}.base_weights", lambda _: dict(weights))
    torch.manual_seed(0)
    tensors = {name: torch.randn(weights[name].shape) for name in weights if "proj_img" in name or "fc1" in name}
    for name in (name.removesuffix(".weight") for name in weights if name.endswith("_proj.weight")):
        if name.startswith("model.layers."):
            out, into = weights[f"{name}.weight"].shape
            tensors |= {f"{name}.lora_A": torch.randn(2, into), f"{name}.lora_B": torch.randn(out, 2) / 10}
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    folder, base = tmp_path / "earlier", Base("smollm2-135m", "efficientnet-lite0")
    save_trained(folder, TINY, weights, tensors, 2.0, text, {"seed": 7}, base)
    text.save(folder)
    return folder


def recipe_of(folder, **changes):
    return dataclasses.replace(
        RECIPE, **{"model": str(folder), "stages": (STAGE,), "lora_rank": 2, "lora_alpha": 4, **changes}
    )


@pytest.mark.parametrize("alpha", [4, 6])
def test_it_begins_where_the_earlier_run_ended(tmp_path, earlier, alpha):
    recipe = recipe_of(earlier, lora_alpha=alpha, stages=(dataclasses.replace(STAGE, learn=("injection",)),))
    trainer = Trainer(Run(tmp_path / "run", recipe), resume=False)
    trainer._begin(recipe.stages[0], restore=False)  # adapters rest before they learn, but not these
    expected = load_checkpoint(earlier)
    pixels = torch.randint(256, (1, TINY.vision.image_size, TINY.vision.image_size, 3), dtype=torch.uint8)
    torch.testing.assert_close(trainer.objective.model(IDS, pixels), expected(IDS, pixels), rtol=1e-4, atol=1e-4)


def test_what_it_stores_is_what_both_runs_trained(tmp_path, earlier):
    provenance = train(Run(tmp_path / "run", recipe_of(earlier)))
    final = tmp_path / "run" / "final"
    before, after = (load_file(folder / "model.safetensors") for folder in (earlier, final))
    assert before.keys() <= after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "vision_tower" not in name}
    assert read_base(final) == read_base(earlier)
    assert provenance["before"] == {"seed": 7}
    assert not torch.allclose(load_checkpoint(final)(IDS), load_checkpoint(earlier)(IDS), atol=1e-3)


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"lora_rank": 0}, {"lora_first_layer": 1}])
def test_other_adapters_than_the_earlier_ones_are_refused(tmp_path, earlier, changes):
    with pytest.raises(InputError, match=r"--set lora_rank=2 --set lora_first_layer=0, or fold .*himix convert"):
        Trainer(Run(tmp_path / "run", recipe_of(earlier, **changes)), resume=False)
