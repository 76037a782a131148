"""The tiny model's bundles that take adapters, and an adapter of PEFT's own making for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from himix_edge import load_checkpoint
from himix_edge.checkpoints.adapters import as_file, open_adapter
from himix_edge.checkpoints.source import open_source
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.manifest import read_manifest
from tests.conftest import TINY

RANK, MOST = 3, 4
EVERY = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj(_img)?"
TEXT = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|v|down)_proj"


def peft_model(checkpoint, seed=0, targets=EVERY, **settings):
    """The tiny model with an adapter whose halves are both random, as peft computes it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=6, target_modules=targets, **settings)
    model = get_peft_model(load_checkpoint(checkpoint), config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session")
def adapted(tmp_path_factory, tiny_checkpoint):
    """A model of peft's with its adapter, and the adapter's folder."""
    folder = tmp_path_factory.mktemp("peft") / "all"
    model = peft_model(tiny_checkpoint)
    model.save_pretrained(str(folder))
    return model, folder


class Bundles(dict[str, Path]):
    """The tiny model in float by target, with places for adapters; each made when it is first asked for."""

    def __init__(self, checkpoint, folder):
        self.checkpoint, self.folder = checkpoint, folder

    def __missing__(self, target):
        request = ExportRequest(
            str(self.checkpoint), target, "none", self.folder / target, probe_questions=2, adapter_rank=MOST
        )
        self[target] = export(plan(request)).folder
        return self[target]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory, tiny_checkpoint) -> Bundles:
    return Bundles(tiny_checkpoint, tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="session")
def adapter_file(adapted, bundles, tmp_path_factory):
    """The adapter as a file for any of the bundles."""
    path = tmp_path_factory.mktemp("adapter") / "all.safetensors"
    manifest = read_manifest(bundles["onnx"])
    as_file(open_adapter(adapted[1], TINY), TINY, manifest.adapters.base, "bundle").save(path)
    return path


@pytest.fixture(scope="session")
def text_adapter_file(tiny_checkpoint, bundles, tmp_path_factory):
    """One that leaves images alone, of another rank pattern and with rsLoRA's scale."""
    folder = tmp_path_factory.mktemp("text")
    model = peft_model(tiny_checkpoint, 1, TEXT, use_rslora=True, rank_pattern={"layers.0.mlp.down_proj": 2})
    model.save_pretrained(str(folder / "peft"))
    path, manifest = folder / "text.safetensors", read_manifest(bundles["onnx"])
    as_file(open_adapter(folder / "peft", TINY), TINY, manifest.adapters.base, "bundle").save(path)
    return model, folder / "peft", path


@pytest.fixture(scope="session")
def source(tiny_checkpoint):
    return open_source(tiny_checkpoint)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
