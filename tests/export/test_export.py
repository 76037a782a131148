"""Exports of the shipped nano: the graphs are the fused ones, the answers are PyTorch's, publishing is atomic."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from himix_edge.checkpoints import load_checkpoint, open_source
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export import pipeline
from himix_edge.export.pipeline import PROBE, ExportRequest, export, is_current, plan
from himix_edge.export.quantization.policy import POLICIES
from himix_edge.export.quantization.tensors import quantize
from himix_edge.export.targets.onnx.matmul_nbits import row_block
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.runtimes.session import Session
from himix_edge.runtimes.verifying import open_verified
from himix_edge.staging import staging
from tests.conftest import FEW, TINY


def request(model, out, **changes):
    usual = {"target": "onnx", "precision": "int8", "out": out, "probe_questions": FEW}
    return ExportRequest(**{"model": str(model), **usual, **changes})


def operators(path):
    graph = onnx.load(path).graph
    return [node.op_type for node in graph.node], {i.name: i for i in graph.initializer}


@pytest.mark.parametrize("precision", ["none", "int8", "int4"])
def test_answers_equal_the_reference_on_real_questions(nano_bundles, precision):
    session = open_bundle(nano_bundles[precision])
    model = quantize(open_source("nano"), POLICIES[precision]).reference
    reference = Session(PytorchEngine(model, 512), session.text, model.config, "reference", session.defaults)
    for sample in load_llava(PROBE).samples:
        for (turn,) in sample.conversations:
            answer = session.answer(turn.question, sample.image)
            assert answer == reference.answer(turn.question, sample.image) == turn.answer


@pytest.mark.parametrize("precision", ["none", "int8", "int4"])
def test_graphs_are_fused(nano_bundles, precision):
    layers = load_checkpoint("nano").config.decoder.num_hidden_layers
    names, initializers = operators(nano_bundles[precision] / "decoder.onnx")
    assert names.count("GroupQueryAttention") == layers
    assert "Softmax" not in names
    tower, _ = operators(nano_bundles[precision] / "vision_encoder.onnx")
    assert tower.count("MultiHeadAttention") == layers
    if precision == "none":
        assert "MatMulNBits" not in names
        return
    assert names.count("MatMulNBits") == 5 * layers + 1  # query, key and value are one
    injector, _ = operators(nano_bundles[precision] / "vision_injector.onnx")
    assert injector.count("Int8Linear") == 2  # keys and values
    assert "Int8Linear" in tower
    assert "MatMulNBits" not in tower + injector
    assert names.count("GatherBlockQuantized") == 1
    assert "MatMul" not in names
    heads = [
        n for n, i in initializers.items() if i.dims and i.dims[0] == 512 and i.data_type == onnx.TensorProto.UINT8
    ]
    tables = [n for n in heads if n.startswith("model.embed_tokens")]
    assert len(tables) == 1, "the tied embedding is stored once"


def test_the_stored_integers_are_the_quantizers(nano_bundles):
    quantized = pipeline.quantized_model(plan(request("nano", nano_bundles["int4"].parent / "x", precision="int4")))
    _, initializers = operators(nano_bundles["int4"] / "decoder.onnx")
    expected = quantized.tensors["model.layers.1.mlp.down_proj.weight"]
    packed = onnx.numpy_helper.to_array(initializers["model.layers.1.mlp.down_proj.weight.packed"])
    values = np.stack([packed & 15, packed >> 4], -1).reshape(expected.values.shape).astype(int) - 8
    assert (values == expected.values.numpy()).all()
    scale = onnx.numpy_helper.to_array(initializers["model.layers.1.mlp.down_proj.weight.scale"])
    assert scale.dtype == np.float16, "the size of llama.cpp's Q4_0"
    assert (scale == expected.scale.numpy()).all()


def test_sizes_and_their_forecast(nano_bundles):
    sizes = {name: open_verified(folder).bytes for name, folder in nano_bundles.items()}
    assert sizes["int4"] < sizes["int8"] < 0.4 * sizes["none"]
    for precision, size in sizes.items():
        need = plan(request("nano", nano_bundles[precision].parent / "x", precision=precision)).forecast
        assert need.bundle == pytest.approx(size, rel=0.1)


def test_the_disk_that_is_needed_differs_by_target(tmp_path):
    needs = {
        name: plan(request("nano", tmp_path / "out", target=name)).forecast for name in ("onnx", "openvino", "coreml")
    }
    assert needs["openvino"].disk < needs["onnx"].disk < needs["coreml"].disk
    assert all(need.bundle <= need.disk for need in needs.values())


def test_manifest_records_what_was_made(nano_bundles):
    manifest = open_verified(nano_bundles["int4"]).manifest
    assert manifest.quantization.bits == {"vision_encoder": 8, "vision_injector": 8, "decoder": 4, "embedding": 4}
    assert {r.stage for r in manifest.parity} == {"subgraphs", "quantised", "weights", "packed", "runtime"}
    assert all(r.passed for r in manifest.parity)
    assert manifest.provenance["training"]["data"]["licence"] == "MIT"
    assert manifest.tools["onnxruntime"]


def test_a_vanilla_model_goes_the_same_way(tmp_path, tiny_checkpoint, text):
    import dataclasses

    from himix_edge.checkpoints import save_checkpoint
    from himix_edge.model import build_model

    save_checkpoint(tmp_path / "vanilla", build_model(dataclasses.replace(TINY, architecture="vanilla")), text)
    bundle = export(plan(request(tmp_path / "vanilla", tmp_path / "out")))
    session = open_bundle(bundle.folder)
    image = load_llava(PROBE).samples[0].image
    assert session.encode_image(image).next_position == bundle.manifest.vision_tokens
    assert list(session.generate("what is it?", image))


def test_large_weights_go_to_a_file_of_their_own(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("himix_edge.export.targets.onnx.target.EXTERNAL_DATA_BYTES", 0)
    bundle = export(plan(request(tiny_checkpoint, tmp_path / "out")))
    assert [record.path for record in bundle.manifest.roles["decoder"]] == ["decoder.onnx", "decoder.onnx.data"]
    assert list(open_bundle(bundle.folder).generate("hi", max_new_tokens=2))


def test_dry_run_and_plan_write_nothing(tmp_path):
    plan(request("nano", tmp_path / "deep" / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_rerun_is_up_to_date_and_another_bundle_is_not_replaced(tmp_path, tiny_checkpoint):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no obstacle
    first = plan(request(tiny_checkpoint, out, precision="none"))
    export(first)
    assert is_current(first)
    other = plan(request(tiny_checkpoint, out, precision="none", capacity=64))
    assert not is_current(other)
    with pytest.raises(InputError, match="--force"):
        export(other)
    export(plan(request(tiny_checkpoint, out, precision="none", capacity=64, force=True)))
    assert open_bundle(out).capacity == 64
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (out / "decoder.onnx").write_bytes(b"")
    assert not is_current(other)


def test_a_folder_with_other_things_is_never_replaced(tmp_path, tiny_checkpoint):
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(InputError, match="not a bundle"):
            export(plan(request(tiny_checkpoint, tmp_path, force=force)))
    assert (tmp_path / "thesis.txt").exists()


def test_a_finished_role_is_taken_over(tmp_path, tiny_checkpoint, monkeypatch):
    """A kill after two roles: the rerun writes only the third."""
    work = plan(request(tiny_checkpoint, tmp_path / "out", precision="none"))
    stages = work.target.stages

    def killed_at_decoder(*arguments):
        def die(folder):
            raise KeyboardInterrupt

        return {**stages(*arguments), "decoder": die}

    monkeypatch.setattr(work.target, "stages", killed_at_decoder)
    with pytest.raises(KeyboardInterrupt):
        export(work)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(work.target, "stages", stages)
    steps = []
    export(work, steps.append)
    names = [step.name for step in steps]
    assert "vision_encoder: finished by an earlier run" in names
    assert "decoder: tracing and writing" in names
    assert sorted({(step.number, step.count) for step in steps}) == [(number, 9) for number in range(1, 10)]
    assert str(steps[-1]) == "step 9 of 9: publishing"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_another_key_starts_anew(tmp_path, tiny_checkpoint, monkeypatch):
    with staging(tmp_path / "out", resumable=True) as place:
        place.new.mkdir()
        (place.new / "vision_encoder.onnx").write_bytes(b"old")
        (place.new / "stages.json").write_text(json.dumps({"key": "other", "roles": {}}))
    steps = []
    export(plan(request(tiny_checkpoint, tmp_path / "out", precision="none")), steps.append)
    assert "vision_encoder: tracing and writing" in [step.name for step in steps]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.5, 2, 3, 4, 5, 6, 8, 10, 12])
def test_a_kill_at_any_moment_leaves_the_old_bundle_or_none(tmp_path, tiny_checkpoint, delay):
    """SIGKILL in a real process, at nine moments of an export that replaces another; then a rerun succeeds."""
    out = tmp_path / "out"
    export(plan(request(tiny_checkpoint, out, precision="none", capacity=64)))
    command = [sys.executable, "-m", "himix_edge", "export", "--target", "onnx", "--quant", "int8", "--force",
               "--model", str(tiny_checkpoint), "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if out.exists():
        assert open_verified(out).manifest.quantization.precision in ("none", "int8")
    assert subprocess.run(command, check=False).returncode == 0
    assert open_verified(out).manifest.quantization.precision == "int8"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_and_an_unwritable_folder_leave_nothing(tmp_path, tiny_checkpoint, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    work = plan(request(tiny_checkpoint, tmp_path / "out", precision="none"))
    monkeypatch.setattr(pipeline, "write_manifest", full)
    with pytest.raises(InputError, match="No space left on device"):
        export(work)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        export(plan(request(tiny_checkpoint, tmp_path / "file" / "out")))


def test_one_export_at_a_time(tmp_path, tiny_checkpoint):
    work = plan(request(tiny_checkpoint, tmp_path / "out"))
    with staging(tmp_path / "out"), pytest.raises(InputError, match="another export"):
        export(work)


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": "giant"}, "shipped: nano"),
    ({"target": "abacus"}, "unknown target 'abacus'; known: coreai, coreml, executorch, litert, onnx"),
    ({"precision": "int3"}, "unknown precision 'int3'"),
    ({"group_size": 48}, "group size 48"),
    ({"capacity": 64}, "capacity 64: must be more than the 64 vision tokens"),
    ({"capacity": 10_000}, "max_position_embeddings"),
])  # fmt: skip
def test_bad_requests(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        plan(request(changes.pop("model", "nano"), tmp_path / "out", **changes))


@pytest.mark.parametrize(("record", "message"), [
    ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}, "has no image"),
    ({"image": "none.png", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
     "no such image"),
])  # fmt: skip
def test_a_probe_that_cannot_be_asked(tmp_path, tiny_checkpoint, record, message):
    (tmp_path / "probe.json").write_text(json.dumps([record]))
    work = plan(request(tiny_checkpoint, tmp_path / "out", precision="none", probe=tmp_path / "probe.json"))
    with pytest.raises(InputError, match=message):
        export(work)
    assert [p.name for p in tmp_path.iterdir()] == ["probe.json"]


def test_questions_beyond_the_capacity(tmp_path, tiny_checkpoint):
    with pytest.raises(InputError, match=r"needs .* cache slots, the capacity is 20"):
        export(plan(request(tiny_checkpoint, tmp_path / "out", precision="none", capacity=20)))


def test_a_machine_that_is_too_small_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 1 << 20}))
    with pytest.raises(InputError, match="MiB of memory and 1 MiB are free"):
        plan(request("nano", tmp_path / "out"))
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("D", (), {"free": 1 << 20}))
    with pytest.raises(InputError, match="MiB of disk and 1 MiB are free"):
        plan(request("nano", tmp_path / "out"))


def test_a_decoder_without_a_tower_is_refused(tmp_path):
    from tests.model.test_model import GOLDEN

    with pytest.raises(InputError, match="without a vision tower"):
        plan(request(GOLDEN / "llama_untied", tmp_path / "out"))


def test_blocks_divide_the_columns():
    assert [row_block(n) for n in (1024, 192, 96, 588)] == [128, 64, 32, 16]
