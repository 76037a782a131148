"""Compiled for a chip: who is asked for what, what a compiler refuses, and engines whose process ends."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from himix_edge.errors import BackendMissing, InputError
from himix_edge.export.apart import ApartEngine
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.targets.onnx_qnn import compiling
from himix_edge.manifest import MANIFEST
from himix_edge.runtimes import onnx_qnn, open_bundle
from himix_edge.runtimes.onnx_qnn import chips
from himix_edge.runtimes.onnx_qnn.context_files import binaries_of
from himix_edge.runtimes.verifying import open_verified
from tests.commands import himix
from tests.conftest import FEW


class Small:
    """An engine that says what it was made of, and ends its process when it is told to."""

    capacity = 7

    def __init__(self, word):
        if word == "refuse":
            raise InputError("refused\nfor a reason")
        self.word = word

    def encode(self, pixels):
        return pixels.astype(np.float32) + len(self.word)

    def inject(self, features):
        return features, -features

    def start(self, key, value, position):
        os.kill(os.getpid(), position)

    def step(self, token_ids, embeddings=None):
        raise ValueError("first\nsecond")


def test_an_engine_in_a_process_of_its_own():
    with ApartEngine("the chip", Small, "word") as engine:
        assert engine.capacity == 7
        pixels = np.arange(3, dtype=np.uint8)
        assert engine.encode(pixels).tolist() == [4, 5, 6]
        key, value = engine.inject(np.ones(2, np.float32))
        assert (key + value).tolist() == [0, 0]
        with pytest.raises(InputError, match=r"^the chip: first$"):
            engine.step(np.zeros(1, np.int64))
        assert engine.encode(pixels).tolist() == [4, 5, 6]
        with pytest.raises(InputError, match=f"^the chip: its process ended with code -{signal.SIGKILL}"):
            engine.start(pixels, pixels, int(signal.SIGKILL))
        with pytest.raises(InputError, match="its process ended"):
            engine.encode(pixels)
    with pytest.raises(InputError, match="the chip: refused"):
        ApartEngine("the chip", Small, "refuse")


@pytest.mark.parametrize(("target", "chip", "code", "words"), [
    ("onnx", "sm8550", 2, ["target onnx compiles for none", "onnx_qnn"]),
    ("onnx_qnn", "sm8550,sm9", 2, ["unknown chip 'sm9'", "sm8550 (Snapdragon 8 Gen 2)"]),
])  # fmt: skip
def test_chips_that_cannot_be_compiled_for(target, chip, code, words, tmp_path):
    result = himix("export", "--target", target, "--chip", chip, "--out", "x", cwd=tmp_path)
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_is_named(monkeypatch, tiny_checkpoint, tmp_path):
    version = importlib.metadata.version

    def there(package):
        if package == "onnxruntime-qnn":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", there)
    asked = ExportRequest(str(tiny_checkpoint), "onnx_qnn", "none", tmp_path / "b", chips=("sm8550",))
    with pytest.raises(BackendMissing, match=r"onnxruntime-qnn is not installed; .*'himix-edge\[qnn\]'"):
        plan(asked)


def test_nodes_that_the_compiler_refuses_are_named_with_its_reasons(monkeypatch, tmp_path):
    nodes = [{"op_type": "Gather", "node_name": f"n{i}", "reason": "Cannot get shape"} for i in range(5)]

    def refuse(command, cwd, **rest):
        Path(cwd, compiling.TRACE).write_text(json.dumps({"unsupported_nodes": nodes}))
        return subprocess.CompletedProcess(command, 1, "", "fallback to CPU EP has been explicitly disabled")

    monkeypatch.setattr(compiling.subprocess, "run", refuse)
    (tmp_path / "decoder.onnx").write_bytes(b"")
    with pytest.raises(InputError) as error:
        compiling.compile_for("sm8550", tmp_path / "decoder.onnx")
    assert str(error.value) == (
        "decoder.onnx: not compiled for sm8550: the NPU does not take Gather n0 (Cannot get shape), Gather n1 (Cannot "
        "get shape), Gather n2 (Cannot get shape) and 2 more"
    )
    crashed = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(compiling.subprocess, "run", lambda *_, **__: crashed)
    with pytest.raises(InputError, match="the compiler ended with -11"):
        compiling.compile_for("sm8550", tmp_path / "decoder.onnx")


def context(path, name):
    node = onnx.helper.make_node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context=name, embed_mode=0)
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [out])), path)
    return path


@pytest.mark.parametrize("name", ["../other.bin", "/etc/passwd", "missing.bin", "a/b.bin", ".."])
def test_a_context_that_is_not_beside_its_file_is_refused(name, tmp_path):
    path = context(tmp_path / "decoder.onnx", name)
    assert binaries_of(path) == {name}
    with pytest.raises(InputError, match="not beside it; refused"):
        chips.open_for(path, "sm8550")


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "decoder.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="not an ONNX file"):
        chips.open_for(tmp_path / "decoder.onnx", "sm8550")


@pytest.mark.slow
def test_a_compiled_bundle_is_emulated(tiny_checkpoint, tmp_path, probe_image, caplog):
    """Slow: adds Qualcomm's compiler and emulation, where onnxruntime-qnn is installed (`pip install '.[qnn]'`)."""
    pytest.importorskip(chips.PACKAGE)
    asked = ExportRequest(
        str(tiny_checkpoint), "onnx_qnn", "int4", tmp_path / "b", rounding="nearest", probe_questions=FEW,
        chips=("sm8550", "sm8750"),
    )  # fmt: skip
    folder = export(plan(asked)).folder
    manifest = open_verified(folder).manifest
    assert manifest.provenance["chips"]["sm8750"]["htp_arch"] == 79
    stages = {result.stage for result in manifest.parity}
    assert {"runtime", "sm8550", "sm8750"} <= stages
    session = open_bundle(folder, device="sm8550")
    assert session.device == "sm8550"
    assert session.answer("What is it?", probe_image) == open_bundle(folder).answer("What is it?", probe_image)
    assert open_bundle(folder, device="sm8650").device == "cpu"
    assert "nothing in it is compiled for sm8650" in caplog.text
    other = shutil.copytree(folder, tmp_path / "other")
    data = json.loads((other / MANIFEST).read_text())
    assert any(record["path"] == "sm8550/decoder_qnn.bin" for record in data["roles"]["decoder"])


def test_chips_are_devices_where_the_package_is(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    assert onnx_qnn.RUNTIME.devices() == ()
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: object())
    assert onnx_qnn.RUNTIME.devices() == tuple(chips.CHIPS)
