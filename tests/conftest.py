"""Shared fixtures: a tiny random model with a real tokenizer, real images, and bundles of the shipped nano."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from himix_edge.checkpoints import save_checkpoint
from himix_edge.config import DecoderConfig, ModelConfig, ViTConfig
from himix_edge.data.llava import load_llava
from himix_edge.export.pipeline import PROBE, ExportRequest, export, plan
from himix_edge.model import build_model
from himix_edge.text import TextProcessor
from himix_edge.training.tokenizer import train_tokenizer

FEW = 8  # of the gate's questions, where a test is about something else
QUICK = ("onnx", "onnx_portable")  # targets that export a tiny model in seconds
TINY = ModelConfig(
    architecture="himix",
    decoder=DecoderConfig(
        model_type="qwen2",
        vocab_size=400,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=96,
    ),
    vision_hidden_size=32,
    vision=ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
)


def tiny_text() -> TextProcessor:
    """Tokenizer and template of the tiny model, learned from the probe's questions."""
    probe = load_llava(PROBE)
    words = [turn.question for sample in probe.samples for talk in sample.conversations for turn in talk]
    return train_tokenizer(words, TINY.decoder.vocab_size)


@pytest.fixture(scope="session")
def text() -> TextProcessor:
    return tiny_text()


@pytest.fixture(params=["himix", "vanilla"])
def tiny(request):
    """A random tiny model, of both architectures."""
    torch.manual_seed(0)
    return build_model(dataclasses.replace(TINY, architecture=request.param)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, text) -> Path:
    """A saved tiny HiMix model with tokenizer and template."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, build_model(TINY), text)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_checkpoint) -> Path:
    """The tiny model as an int8 ONNX bundle; tests that damage it copy it first."""
    out = tmp_path_factory.mktemp("bundle") / "tiny-int8"
    export(plan(ExportRequest(str(tiny_checkpoint), "onnx", "int8", out, probe_questions=FEW)))
    return out


@pytest.fixture(scope="session")
def nano_bundles(tmp_path_factory) -> dict[str, Path]:
    """The shipped nano in ONNX, by precision; made by the first of pytest-xdist's workers that needs it."""
    everybodys = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everybodys = everybodys.parent
    folder = everybodys / "nano-bundles"
    with FileLock(everybodys / "nano-bundles.lock"):
        for precision in ("none", "int8", "int4"):
            if not (folder / precision).exists():
                export(plan(ExportRequest("nano", "onnx", precision, folder / precision, probe_questions=FEW)))
    return {precision: folder / precision for precision in ("none", "int8", "int4")}


@pytest.fixture(scope="session")
def probe_image() -> Path:
    """A real image: the first of the probe set."""
    image = load_llava(PROBE).samples[0].image
    assert image is not None
    return image
