"""Graphs of fixed shapes for Qualcomm's NPU: what is in them, and that a CPU answers with them as PyTorch does."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from himix_edge.checkpoints import save_checkpoint
from himix_edge.config import Injection
from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan, quantized_model
from himix_edge.manifest import MANIFEST
from himix_edge.model import build_model
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.onnx_qnn import DECODER_PARTS, PREFILL, WEIGHTS
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.runtimes.verifying import open_verified
from tests.conftest import FEW, TINY

# what the HTP backend of onnxruntime-qnn 2.7 takes, as float16; `inputs.onnx` stays on the CPU
TAKEN = {
    "Add", "Concat", "DequantizeLinear", "Div", "Gelu", "Erf", "LayerNormalization", "MatMul", "Gemm", "MatMulNBits",
    "Mul", "Neg", "RMSNormalization", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Transpose",
    "Unsqueeze", "Expand", "Gather",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("qnn") / "bundle"
    asked = ExportRequest(str(tiny_checkpoint), "onnx_qnn", "int4", out, rounding="nearest", probe_questions=FEW)
    return export(plan(asked)).folder


def graph(bundle, name):
    return onnx.load(bundle / name, load_external_data=False).graph


def test_shapes_are_fixed_and_the_npu_has_every_operator(bundle):
    for name in ("vision_encoder.onnx", "vision_injector.onnx", *DECODER_PARTS[:2]):
        made = graph(bundle, name)
        for port in (*made.input, *made.output):
            assert all(d.dim_value > 0 for d in port.type.tensor_type.shape.dim), (name, port.name)
        assert {node.op_type for node in made.node} <= TAKEN, name
        assert all(len(node.input) == 3 for node in made.node if node.op_type == "MatMulNBits"), "a bias in it"
    assert [node.op_type for node in graph(bundle, "vision_encoder.onnx").node if "image" in node.input] == [
        "DequantizeLinear"
    ]
    assert graph(bundle, DECODER_PARTS[1]).input[0].type.tensor_type.shape.dim[1].dim_value == PREFILL


def test_the_decoders_graphs_share_one_file_of_weights(bundle):
    places = []
    for name in DECODER_PARTS:
        for tensor in graph(bundle, name).initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == WEIGHTS
                places.append((name, tensor.name, entries["offset"]))
    step, prefill = ({place[1:] for place in places if place[0] == name} for name in DECODER_PARTS[:2])
    assert step
    assert step == prefill
    assert (bundle / WEIGHTS).stat().st_size < 1.2 * sum(
        int(np.prod(tensor.dims)) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        for name in (DECODER_PARTS[0], DECODER_PARTS[2])
        for tensor in graph(bundle, name).initializer
    )
    listed = [record.path for record in open_verified(bundle).manifest.roles["decoder"]]
    assert listed == [*DECODER_PARTS, WEIGHTS]


def test_long_and_short_prompts_and_pictures_that_change(bundle, tiny_checkpoint, probe_image):
    """Chunks of the prefill, full and not, against the model that is fed at once."""
    session, reference = open_bundle(bundle), on_the_same_integers(tiny_checkpoint)
    key, value = session.encode_image(probe_image).key, session.encode_image(probe_image).value
    for engine in (session.engine, reference):
        engine.start(key, value, 0)
    rng = np.random.default_rng(0)
    for count in (1, 5, PREFILL, PREFILL + 1, 1):
        ids = rng.integers(5, TINY.decoder.vocab_size, count)
        found, expected = (engine.step(ids) for engine in (session.engine, reference))
        assert np.abs(found - expected).max() < 2e-4 * expected.std(), count


def on_the_same_integers(checkpoint):
    """PyTorch on what the bundle stores."""
    asked = ExportRequest(str(checkpoint), "onnx_qnn", "int4", Path("unused"), rounding="nearest", probe_questions=FEW)
    work = plan(asked)
    return PytorchEngine(quantized_model(work).reference, work.options.capacity)


def test_graphs_in_each_others_place_are_refused(bundle, tmp_path):
    opened = open_verified(bundle)
    other = shutil.copytree(bundle, tmp_path / "other")
    (other / "decoder.onnx").write_bytes((bundle / "prefill.onnx").read_bytes())
    files = {role: other / records[0].path for role, records in opened.manifest.roles.items()}
    with pytest.raises(InputError, match=r"embeds is \[1, 32, 64\], the manifest says \[1, 1, 64\]"):
        load_engine(opened, role_files=files)


def test_a_graph_that_the_manifest_does_not_list_is_refused(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["roles"]["decoder"] = [r for r in manifest["roles"]["decoder"] if r["path"] != "prefill.onnx"]
    (other / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"reads 'prefill\.onnx', which the manifest does not list"):
        open_verified(other)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["none", "int8"])
def test_some_layers_without_the_image(precision, tmp_path, text):
    """Slow: adds layers whose cache holds text alone, at other slots, and the other precisions."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(TINY, injection=Injection(layers=(1,))))
    save_checkpoint(tmp_path / "model", model, text)
    asked = ExportRequest(str(tmp_path / "model"), "onnx_qnn", precision, tmp_path / "b", probe_questions=FEW)
    assert export(plan(asked)).folder
