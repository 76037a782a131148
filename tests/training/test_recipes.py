"""Recipe files and their settings."""

import pytest

from himix_edge.errors import InputError
from himix_edge.training.recipe import read_recipe


def test_shipped_recipes_are_valid_and_settings_change_them():
    for name in ("nano", "nano-regular", "nano-enhanced", "regular", "enhanced", "further", "distill"):
        assert read_recipe(name).steps > 100
    changed = read_recipe("regular", ("steps=7", "finetune.learning_rate=0.5", "join=0.25", "tests=[]"))
    assert [stage.steps for stage in changed.stages] == [7, 7, 7]
    assert [stage.learning_rate for stage in changed.stages] == [0.002, 0.002, 0.5]
    assert (changed.join, changed.tests) == (0.25, ())
    assert read_recipe("nano", ("learning_rate=1e-3",)).stages[0].learning_rate == 0.001
    assert changed.stage_of(6) == (changed.stages[0], 0)
    assert changed.stage_of(7) == (changed.stages[1], 7)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("steps", "NAME=VALUE"),
        ("nothing.steps=3", "STAGE.NAME=VALUE"),
        ("speed=3", "'speed' is not a setting; known: accumulate"),
        ("steps=many", "valid integer"),
        ("steps=0", "stage all: steps must be at least 1"),
        ("images_per_step=0", "images_per_step must be at least 1"),
        ("evaluate_every=0", "evaluate_every must be at least 1"),
        ("lora_rank=-1", "lora_rank must be at least 0"),
        ("vocab_size=299", "vocab_size must be at least 300"),
        ("learning_rate=.nan", "JSON compliant"),
        ("learning_rate=1e9", "learning_rate must be at least 0 and at most 10"),
        ("images_per_step=1000000000", "images_per_step must be .* at most 65536"),
        ("images_per_step='4'", "valid integer"),
        ("mirror=1", "valid boolean"),
        ("betas=[0.9, 1]", "betas"),
        ("injection_layers=[-1]", "injection_layers"),
        ("data=[{name: easy-vqa, samples: 0}]", "data easy-vqa: samples must be at least 1"),
        ("steps=2001-99-99", "not valid YAML"),
        ("steps=2001-09-09", "date is not JSON"),
        ("steps=!!bool maybe", "not valid YAML"),
        ("steps=[", "not valid YAML"),
        ("data=[&a {name: easy-vqa}, *a]", "anchors"),
        ("from_words=true", "from_words needs a stage with a tower_loss before it"),
    ],
)
def test_wrong_settings_are_named(setting, complaint):
    with pytest.raises(InputError, match=complaint):
        read_recipe("nano", (setting,))


def test_a_pretrained_model_keeps_its_tokens():
    with pytest.raises(InputError, match="vocab_size: for a model that starts from nothing"):
        read_recipe("regular", ("vocab_size=1000",))


def test_wrong_recipes_are_named(tmp_path):
    with pytest.raises(InputError, match="one of: distill, enhanced, further, nano"):
        read_recipe("../secrets")
    path = tmp_path / "r.yaml"
    for content, complaint in (
        ("model: [", "not valid YAML"),
        ("model: nano", "stages: Field required"),
        ("model: nano\ndata: []\nimages_per_step: 1\nconversations_per_image: 1\nstages: []", "has stages"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("x" * 70000, "larger than 65536 bytes"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=complaint):
            read_recipe(str(path))
