"""`himix check-model` on a tiny random SmolVLM-like model of transformers' own class; and what it has to catch."""

import importlib.util
import json
import shutil

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from himix_edge.cli import himix
from himix_edge.errors import BackendMissing, GateRefused, InputError
from himix_edge.evaluation import check_model, theirs
from himix_edge.presets import resolve_model
from himix_edge.runtimes import open_checkpoint
from tests.checkpoints.test_vlm import idefics3, llava, made

FAST = ["--target", "onnx", "--quant", "none", "--probe-questions", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a family whose processor is there without torchvision."""
    return made(idefics3, tmp_path_factory.mktemp("idefics3")).folder


def run(*arguments):
    result = CliRunner().invoke(himix, ["check-model", *map(str, arguments)])
    return result, result.exception


def test_a_model_is_compared_exported_and_compared_again(folder, tmp_path):
    record = tmp_path / "check.json"
    result, error = run(folder, *FAST, "--out", tmp_path / "bundles", "--json", record)
    assert error is None, result.output
    found = json.loads(record.read_text())
    assert found["passed"]
    assert found["beside"].startswith("Idefics3ForConditionalGeneration and Idefics3Processor of transformers")
    whats = [row["what"] for row in found["rows"]]
    for case in ("no picture", "a picture", "two pictures"):
        assert sum(what.startswith(case) for what in whats) == (3 if case == "no picture" else 4)
    assert sum(what.startswith("onnx none") for what in whats) == 4
    assert all(what in result.stdout for what in whats)
    assert "issue 41190" in result.stdout
    assert (tmp_path / "bundles" / f"{folder.name}-onnx-none" / "manifest.json").is_file()
    assert run(folder, *FAST, "--out", tmp_path / "bundles", "--json", record)[1] is None, "is replaced, and up to date"


@pytest.mark.parametrize(
    "name",
    [
        "model.text_model.layers.1.mlp.down_proj.weight",
        pytest.param("model.vision_model.post_layernorm.bias", marks=pytest.mark.slow),
    ],
)
def test_one_other_tensor_is_caught(folder, tmp_path, monkeypatch, name):
    """As if the conversion had read one of them wrongly: transformers gets another."""
    loaded = theirs.TheirModel._loaded

    def with_another(self, kind, *given, **settings):
        found = loaded(self, kind, *given, **settings)
        if isinstance(found, tuple):
            dict(found[0].named_parameters())[name].data.mul_(1.5).add_(0.01)
        return found

    monkeypatch.setattr(theirs.TheirModel, "_loaded", with_another)
    _, error = run(folder, *FAST, "--out", tmp_path / "bundles")
    assert isinstance(error, GateRefused)
    assert "a picture: logits at 32 positions" in str(error)
    assert "pixels" not in str(error)
    assert "ids" not in str(error)


@pytest.mark.slow
def test_without_it_the_towers_positions_are_caught(folder, tmp_path, monkeypatch):
    """That transformers is set right is needed, and seen. Slow: adds that this fault too is caught."""
    monkeypatch.setattr(theirs, "FLOAT32_POSITIONS", ())
    _, error = run(folder, *FAST, "--out", tmp_path / "bundles")
    assert isinstance(error, GateRefused)
    assert "no picture" not in str(error)


def test_other_pixels_and_ids_are_caught(folder, tmp_path):
    """A processor that cuts other tiles than the folder's settings say."""
    case = check_model.shipped_cases()[1]
    asked = theirs.TheirModel(folder, "idefics3").answer(case.question, case.pictures, check_model.TOKENS)
    session = open_checkpoint(folder)
    assert all(row.passed for row in check_model.compare(session, [(case, asked)], lambda _: None))
    other = theirs.TheirAnswer(asked.ids[:-1], asked.pixels + 0.01, asked.logits, asked.tokens)
    pixels, ids, logits, tokens = check_model.compare(session, [(case, other)], lambda _: None)
    assert not pixels.passed
    assert not ids.passed
    assert logits.passed
    assert tokens.passed


def test_bad_input_is_told_before_anything_is_read(folder, tmp_path, monkeypatch):
    assert "neither a Hugging Face folder" in str(run(tmp_path / "no", *FAST)[1])
    assert "not tiles in its text" in str(run(resolve_model("nano"), *FAST, "--out", tmp_path / "b")[1])
    assert "unknown precision" in str(run(folder, "--target", "onnx", "--quant", "int3", "--out", tmp_path / "b")[1])
    monkeypatch.setattr(check_model, "float_bytes", lambda config: 1 << 60)
    error = run(folder, *FAST, "--out", tmp_path / "b")[1]
    assert isinstance(error, InputError)
    assert "comparing it in float32 needs about" in str(error)
    other = tmp_path / "mine.json"
    other.write_text("[]")
    assert "holds something else" in str(run(folder, *FAST, "--json", other)[1])


def test_a_class_that_transformers_lacks_is_named(tmp_path):
    folder = made(llava, tmp_path).folder
    (folder / "config.json").write_text(json.dumps({"model_type": "internvl_chat"}))
    with pytest.raises(InputError, match="does not read it, so there is nothing to compare with"):
        theirs.TheirModel(folder, "internvl_chat")


def test_tensors_under_other_names_are_not_random_ones(tmp_path):
    """A folder of the same model_type in its authors' own layout."""
    folder = made(llava, tmp_path).folder
    tensors = load_file(folder / "model.safetensors")
    save_file({f"authors.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"does not find .* other tensors in it"):
        theirs.TheirModel(folder, "llava")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_more_says_what_to_install(folder, tmp_path):
    other = tmp_path / "smolvlm"
    shutil.copytree(folder, other)
    for name in ("processor_config.json", "preprocessor_config.json"):
        settings = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps(settings | {"processor_class": "SmolVLMProcessor"}))
    with pytest.raises(BackendMissing, match=r"torchvision .*pip install 'himix-edge\[check\]'"):
        theirs.TheirModel(other, "smolvlm")
