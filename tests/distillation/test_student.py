"""HiMix made of a vanilla model: what is exact, what is solved, what is refused; and the command."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from himix_edge.checkpoints import open_source, save_checkpoint
from himix_edge.checkpoints.assemble import assemble
from himix_edge.cli import himix
from himix_edge.config import Connector, Injection
from himix_edge.data.llava import load_llava
from himix_edge.distillation.layers import image_use
from himix_edge.distillation.losses import answer_losses
from himix_edge.distillation.pooling import PoolingUse, pooling_use, sides
from himix_edge.distillation.solving import Sums, solve
from himix_edge.distillation.student import make_student, student_config
from himix_edge.errors import InputError
from himix_edge.model import build_model
from himix_edge.model.decoder import concat_images
from himix_edge.parts import part_of
from himix_edge.preprocess import load_image
from himix_edge.presets import preset
from himix_edge.training.teacher import teacher_of
from himix_edge.training.teacher_forced import answer_logits, encode, question_batches
from tests.conftest import TINY

TEACHER = dataclasses.replace(TINY, architecture="vanilla")
IDS = torch.tensor([[5, 9, 2, 7, 1]])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    """A folder of a random vanilla model whose biases and norms are random too."""
    folder = tmp_path_factory.mktemp("teacher") / "vanilla"
    torch.manual_seed(0)
    model = build_model(TEACHER)
    for name, parameter in model.named_parameters():
        if name.startswith("model.layers") and parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    save_checkpoint(folder, model, text, {"recipe": {"name": "tiny"}})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 40 small pictures in it, and one below it."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / ("more" if number < 9 else ".") / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return str(folder)


def opened(source):
    return assemble(source.config, source.weights, source.where)


def features(count=1, seed=0):
    return torch.randn(count, 16, 32, generator=torch.Generator().manual_seed(seed))


def student_of(teacher, **injection):
    return make_student(open_source(teacher), Injection(**injection), None, list).source


def test_mixed_by_every_layer_the_student_is_the_teacher(teacher):
    student, model = opened(student_of(teacher, positions="sequence", mixing=2)), opened(open_source(teacher))
    expected = model(IDS, vision_features=features())
    found = student(IDS, vision_features=features())
    assert torch.allclose(found, expected, rtol=0, atol=2e-5)
    assert torch.equal(student(IDS), model(IDS))  # text alone
    unplaced = opened(student_of(teacher, mixing=2))(IDS, vision_features=features())
    assert not torch.allclose(unplaced, expected, rtol=0, atol=1e-2)


def test_without_training_a_layer_has_its_own_projections_of_what_was_mixed(teacher):
    model = opened(open_source(teacher))
    vision = model.inject(features())
    for mixing in (0, 1):
        made = student_of(teacher, positions="sequence", mixing=mixing)
        state = made.weights
        assert {name.split(".")[2] for name in state if "_img" in name} == {"0", "1"} - ({"0"} if mixing else set())
        student = opened(made).inject(features())
        for layer in range(2):
            same = torch.allclose(student.value[layer], vision.value[layer], rtol=0, atol=1e-5)
            assert same == (layer <= mixing), (mixing, layer)
        for name in ("k_proj", "v_proj"):
            copied, own = (state[f"model.layers.1.self_attn.{n}.weight"].read() for n in (f"{name}_img", name))
            assert torch.equal(copied, own)


def test_positions_in_front_of_the_text_are_the_teachers_in_front_of_its_own(teacher):
    """Of one query at the text's first place with every key: the scores are equal."""
    student, model = opened(student_of(teacher, positions="sequence", mixing=2)), opened(open_source(teacher))
    ours, theirs = student.inject(features()), model.inject(features())
    assert (ours.position, theirs.position) == (0, 16)
    states = [model.hidden(IDS[:, :1], cache)[1].key for cache in (ours, theirs)]
    scores = [(layer[:, :, -1:] @ layer.transpose(-1, -2)) for made in states for layer in made]
    for found, expected in zip(scores[:2], scores[2:], strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


def test_the_order_of_several_images_does_not_matter(teacher):
    student = opened(student_of(teacher, positions="sequence", mixing=1))
    one, other = (student.inject(features(seed=seed)) for seed in (1, 2))
    logits = [student.decode(IDS, concat_images(order))[0] for order in ([one, other], [other, one])]
    assert torch.allclose(*logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("injection", [
    Injection(), Injection(positions="sequence", slots=True), Injection(layers=(1,), mixing=1),
])  # fmt: skip
def test_what_is_linear_is_solved_exactly(teacher, injection):
    """A teacher whose layers see states that are linear in what the student projects."""
    model = opened(open_source(teacher))
    with torch.no_grad():
        model.connector = torch.nn.Linear(32, 64, bias=False)
        torch.nn.init.orthogonal_(model.connector.weight)  # the norm of the features is that of the states
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    config = student_config(TEACHER, injection)
    sums = Sums(model, config)
    for seed in range(4):
        sums.add(torch.nn.functional.normalize(features(20, seed), dim=-1))
    solution = solve(sums)
    assert [layer.layer for layer in solution.explained] == list(config.injected_layers)
    assert all(min(layer.keys, layer.values) > 1 - 1e-6 for layer in solution.explained)
    shapes = {n: tuple(p.shape) for n, p in build_model(config).state_dict().items() if "_img" in n}
    assert {name: tuple(tensor.shape) for name, tensor in solution.tensors.items()} == shapes


def test_the_command_keeps_tower_and_decoder_and_says_what_is_explained(tmp_path, teacher, photos, capsys):
    out = tmp_path / "student"
    arguments = [str(teacher), "--to", "himix", "--images", photos, "--slots", "--out", str(out)]
    himix.main(["convert", *arguments, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in result["explained"]] == [0, 1]
    assert result["explained"][0]["keys"] > 0.5
    assert result["injection"] == {"layers": None, "sharing": "none", "positions": "sequence", "slots": True}
    before, after = load_file(teacher / "model.safetensors"), load_file(out / "model.safetensors")
    kept = [name for name in before if part_of(name) != "injection"]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert {name for name in after if name not in kept} == {
        f"model.layers.{layer}.{name}" for layer in range(2) for name in (
            "input_layernorm_img.weight", "slots_img.key", "slots_img.value",
            *(f"self_attn.{kind}_proj_img.{of}" for kind in "kv" for of in ("weight", "bias")),
        )
    }  # fmt: skip
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["recipe"] == {"name": "tiny"}
    assert provenance["converted"]["solved_on"] == {"data": photos, "images": 40}
    himix.main(["convert", *arguments, "--force"], standalone_mode=False)
    assert "Explained" in capsys.readouterr().out


@pytest.mark.parametrize("mixing", [None, 1])
def test_pooled_slots_have_the_means_of_the_teachers_keys_and_values(teacher, mixing):
    """Of a teacher whose layers see states that are linear in the features, which is solved exactly."""
    model = opened(open_source(teacher))
    with torch.no_grad():
        model.connector = torch.nn.Linear(32, 64, bias=False)
        torch.nn.init.orthogonal_(model.connector.weight)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    config = student_config(TEACHER, Injection(positions="sequence", mixing=mixing), 2)
    assert (config.tile_tokens, config.connector.pool) == ((4, 1) if mixing is None else (4, 2))
    sums = Sums(model, config)
    for seed in range(4):  # as long in each square
        rows = torch.nn.functional.normalize(features(20, seed).unflatten(1, (4, 4))[:, ::2, ::2], dim=-1)
        sums.add(rows.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2))
    assert all(min(layer.keys, layer.values) > 1 - 1e-6 for layer in solve(sums).explained)


def test_how_far_an_image_can_be_pooled_is_measured(tmp_path, teacher, photos, text, capsys):
    use = PoolingUse({1: 0.10, 2: 0.11, 4: 0.13, 8: 0.2}, 1.1)
    assert use.choice() == 2
    assert sides(36) == [1, 2, 3, 6]
    with pytest.raises(InputError, match="no square grid"):
        sides(12)
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]
    records = [{"image": f"{number}.png", "conversations": talk} for number in range(9, 40)]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    samples = load_llava(tmp_path / "talks.json", Path(photos)).samples[:3]
    model = opened(open_source(teacher))
    load = lambda image: load_image(image, TINY.vision.image_size)  # noqa: E731
    use = pooling_use(model, text, samples, load, "sequence", None, list)
    assert list(use.losses) == [1, 2, 4]
    whole = image_use(model, text, samples, load, list)
    assert (use.losses[1], use.blind) == (pytest.approx(whole.loss, abs=1e-5), pytest.approx(whole.blind, abs=1e-5))
    data = ["--images", str(tmp_path / "talks.json"), "--image-folder", photos, "--check", "3"]
    words = ["convert", str(teacher), "--to", "himix", *data, "--pooling", "auto", "--out", str(tmp_path / "x")]
    himix.main([*words, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    side = result["pooling"]
    assert side in use.losses
    assert open_source(tmp_path / "x").config.tile_tokens == 16 // side**2
    made = opened(open_source(tmp_path / "x"))
    ((_, batch),) = question_batches(samples, text, load)
    loss = torch.nn.functional.cross_entropy(answer_logits(made, batch, encode(made, batch)), batch.labels)
    assert result["losses"]["student"] == pytest.approx(float(loss), abs=1e-5)


def test_layers_are_chosen_on_questions(tmp_path, teacher, photos, text, capsys):
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]
    records = [{"image": f"{number}.png", "conversations": talk} for number in range(9, 40)]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    data = ["--images", str(tmp_path / "talks.json"), "--image-folder", photos, "--injection-layers", "auto:1"]
    arguments = ["convert", str(teacher), "--to", "himix", *data, "--out", str(tmp_path / "x"), "--json"]
    himix.main(arguments, standalone_mode=False)
    (layer,) = json.loads(capsys.readouterr().out)["injection"]["layers"]
    vision = TINY.vision
    use = image_use(
        opened(open_source(teacher)), text, load_llava(tmp_path / "talks.json", Path(photos)).samples,
        lambda image: load_image(image, vision.image_size), list,
    )  # fmt: skip
    assert (layer,) == use.choice(1)


def test_what_answers_lose_is_zero_where_keys_and_values_are_the_teachers(teacher, text, photos, tmp_path, capsys):
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]
    (tmp_path / "talks.json").write_text(json.dumps([
        {"image": f"{number}.png", "conversations": talk} for number in range(9, 40)
    ]))  # fmt: skip
    samples = load_llava(tmp_path / "talks.json", Path(photos)).samples[:3]

    def losses(**injection):
        student = opened(student_of(teacher, positions="sequence", **injection))
        return answer_losses(
            teacher_of(open_source(teacher)),
            student,
            text,
            samples,
            lambda i: load_image(i, TINY.vision.image_size),
            list,
        )

    whole = losses(mixing=2)
    assert whole.student == pytest.approx(whole.teacher, abs=1e-5)
    assert (whole.kept, list(whole.layers)) == (1.0, [0, 1])
    part = losses(mixing=0)
    assert part.exact == pytest.approx(part.teacher, abs=1e-5)
    assert part.layers[0] == pytest.approx(part.teacher, abs=1e-5)
    assert part.layers[1] == pytest.approx(part.student, abs=1e-6) != pytest.approx(part.teacher, abs=1e-4)
    data = ["--images", str(tmp_path / "talks.json"), "--image-folder", photos, "--check", "4"]
    himix.main(["convert", str(teacher), "--to", "himix", *data, "--out", str(tmp_path / "x")], standalone_mode=False)
    assert "likeliest tokens are the teacher's" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    (["--injection-layers", "auto", "--images", "PHOTOS"], "with questions"),
    (["--injection-layers", "auto:x", "--images", "easy-vqa"], "numbers"),
    ([], "--images is missing"), (["--images", "PHOTOS", "--limit", "19"], "20 or more"),
    (["--mixing", "0", "--slots"], "--images solves them"), (["--mixing", "3"], "goes beyond layer 1"),
    (["--vanilla", "--mixing", "0"], "--vanilla: .* already"), (["--mixing", "0", "--sharing", "uniform"], "--sharing"),
    (["--images", "nowhere.json"], "nowhere.json"), (["--pooling", "3", "--mixing", "0"], "pool .* must divide"),
    (["--pooling", "x"], "--pooling 'x'"), (["--pooling", "auto"], "with questions"),
])  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, teacher, photos, options, message):
    options = [photos if option == "PHOTOS" else option for option in options]
    with pytest.raises(InputError, match=message):
        himix.main(["convert", str(teacher), "--to", "himix", *options, "--out", str(tmp_path / "x")],
                   standalone_mode=False)  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_models_that_have_no_such_keys_are_refused_by_name(tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="only a vanilla model"):
        himix.main(["convert", str(tiny_checkpoint), "--to", "himix", "--mixing", "0", "--out", str(tmp_path / "x")],
                   standalone_mode=False)  # fmt: skip
    with pytest.raises(InputError, match=r"up to 17 tiles \(rows\)"):
        student_config(preset("smolvlm-256m"), Injection(mixing=0))
    with pytest.raises(InputError, match=r"makes 4 tokens of 16 features; --mixing 0"):
        student_config(dataclasses.replace(TEACHER, connector=Connector(pool=2)), Injection())
