"""`himix convert` of a vision-language model: its checkpoint exports to the same bundle as the folder it came from."""

import json

import pytest
import torch

import himix_edge as hx
from himix_edge.bundle import read_manifest
from himix_edge.checkpoints import load_checkpoint
from himix_edge.cli import himix
from tests.checkpoints.test_vlm import idefics3, internvl, llava, made


@pytest.mark.parametrize("family", [
    pytest.param(idefics3, marks=pytest.mark.slow, id="idefics3"), pytest.param(internvl, id="internvl")
])  # fmt: skip
def test_a_converted_checkpoint_exports_to_the_same_bundle(family, tmp_path):
    folder = made(family, tmp_path / "theirs").folder
    himix.main(["convert", str(folder), "--out", str(tmp_path / "ours")], standalone_mode=False)
    manifests = []
    for model in ("theirs", "ours"):
        out = tmp_path / f"{model}-bundle"
        hx.export_bundle(
            hx.plan_export(
                hx.ExportRequest(str(tmp_path / model), "onnx", "int4", out, rounding="nearest", probe_questions=1)
            )
        )
        manifests.append(read_manifest(out))
    theirs, ours = manifests
    assert ours.roles == theirs.roles, "every file by its hash"
    for part in ("model", "chat_template", "quantization", "preprocessing", "context_capacity", "image_kv_id"):
        assert getattr(ours, part) == getattr(theirs, part), part
    assert ours.selftest == theirs.selftest
    assert ours.parity == theirs.parity


def test_a_head_that_only_the_text_config_ties_is_the_embedding(tmp_path):
    """As in LLaVA-OneVision-0.5B's folder: the whole model says false, and the file has no head."""

    def tied(tokenizer):
        config, processor = llava(tokenizer)
        config.text_config.tie_word_embeddings = True
        return config, processor

    theirs = made(tied, tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert (said.get("tie_word_embeddings", False), said["text_config"]["tie_word_embeddings"]) == (False, True)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = theirs.model(input_ids=ids).logits
    ours = load_checkpoint(tmp_path)
    assert ours.config.decoder.tie_word_embeddings
    torch.testing.assert_close(ours(ids), expected, rtol=0, atol=2e-5)
