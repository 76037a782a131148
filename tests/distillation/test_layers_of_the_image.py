"""Which layers need the image: shares of attention by hand, the loss of layers that nothing reads, and the command."""

import dataclasses
import json

import pytest
import torch

from himix_edge.checkpoints import save_checkpoint
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.data.dataset import Sample
from himix_edge.distillation import layers
from himix_edge.distillation.layers import ImageUse, LayerUse, image_use, rounds
from himix_edge.errors import InputError
from himix_edge.model import build_model
from himix_edge.preprocess import load_image
from himix_edge.presets import SHIPPED
from tests.conftest import TINY

PROBE = str(SHIPPED / "probe" / "probe.json")


def model_whose(layer, architecture="vanilla"):
    """A random model whose attention in `layer` reaches nothing."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(TINY, architecture=architecture)).eval().requires_grad_(False)
    model.model.layers[layer].self_attn.o_proj.weight.zero_()
    return model


def load(image):
    return load_image(image, 32)


def measured(model, text, count=3):
    return image_use(model, text, load_dataset(PROBE).samples[:count], load, list)


@pytest.mark.parametrize("architecture", ["himix", "vanilla"])
def test_a_layer_whose_attention_reaches_nothing_is_the_least_needed(text, architecture, monkeypatch):
    monkeypatch.setattr(layers, "IMAGES_PER_BATCH", 2)
    for dead in (0, 1):
        use = measured(model_whose(dead, architecture), text)
        by_layer = {one.layer: one for one in use.layers}
        assert by_layer[dead].loss_without == pytest.approx(use.loss, abs=1e-6)
        assert by_layer[1 - dead].loss_without == pytest.approx(use.blind, abs=1e-6)
        assert by_layer[1 - dead].loss_then == pytest.approx(use.blind, abs=1e-6)
        assert all(0 < one.attention < 1 for one in use.layers)
        assert len(use.choice(1)) == 1


def test_attention_without_preference_is_the_share_of_slots(text):
    """Queries of zero see all 16 slots of the image and, causally, the text alike."""
    model = model_whose(0)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.q_proj.bias.zero_()
    sample = load_dataset(PROBE).samples[0]
    turns = sample.conversations[0]
    _, target = text.encode_conversation([(turn.question, turn.answer) for turn in turns])
    places = [place for place, is_target in enumerate(target[1:]) if is_target]
    expected = sum(16 / (16 + place + 1) for place in places) / len(places)
    use = image_use(model, text, [Sample(sample.image, (turns,))], load, list)
    assert [one.attention for one in use.layers] == pytest.approx([expected] * 2, abs=1e-6)


def test_a_choice_is_of_those_that_are_needed_most():
    uses = [LayerUse(layer, 0.5, 1.0, needed, then) for layer, needed, then in
            ((3, 2, 0.101), (5, 0, 1.1), (7, 1, 0.5), (8, 3, 0.1))]  # fmt: skip
    use = ImageUse(0.1, 1.1, tuple(uses))
    assert use.choice(2) == (5, 7)
    assert use.choice(None) == (5, 7)
    assert [len(rounds(count)) for count in (1, 8, 16, 30)] == [1, 8, 12, 15]
    with pytest.raises(InputError, match="5 layers to choose, of 4"):
        use.choice(5)


def test_the_command(tmp_path, text, capsys):
    save_checkpoint(tmp_path / "vanilla", model_whose(1), text)
    arguments = ["analyze", "--layers", "--model", str(tmp_path / "vanilla"), "--limit", "2"]
    himix.main([*arguments, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], [one["layer"] for one in result["layers"]]) == (2, [0, 1])
    himix.main(arguments, standalone_mode=False)
    assert "--injection-layers" in capsys.readouterr().out
    with pytest.raises(InputError, match="--layers prints"):
        himix.main([*arguments, "--out", str(tmp_path / "x")], standalone_mode=False)
