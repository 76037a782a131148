"""What computes beside the CPU: taken if a bundle's self-test passes there, else the CPU is, and a line says why."""

import dataclasses
import json
import logging
import sys
import types

import numpy as np
import pytest

from himix_edge.errors import InputError
from himix_edge.runtimes import coreml, onnx, open_bundle, openvino
from himix_edge.runtimes.onnx import engine as onnx_engine
from himix_edge.runtimes.onnx import providers
from tests.commands import himix

ASKED = "What is this?"


class Skewed(onnx_engine.OnnxEngine):
    """Computes something else."""

    def step(self, token_ids, embeddings=None):
        return np.roll(super().step(token_ids, embeddings), 1)


@pytest.fixture
def cuda(monkeypatch):
    """A machine whose ONNX Runtime has CUDA; what `open_role` was asked for."""
    asked = []
    open_role = onnx_engine.open_role

    def opened(files, role, config, threads, optimization=None, device="cpu", factors=None):
        asked.append(device)
        return open_role(files, role, config, threads, optimization, factors=factors)

    monkeypatch.setattr(onnx, "RUNTIME", dataclasses.replace(onnx.RUNTIME, devices=lambda: ("cuda",)))
    monkeypatch.setattr(onnx_engine, "open_role", opened)
    return asked


def test_one_that_passes_the_self_test_is_taken(cuda, nano_bundles, probe_image, caplog):
    session = open_bundle(nano_bundles["int8"], device="cuda")
    assert session.device == "cuda"
    assert cuda == ["cuda"] * 3
    usual = open_bundle(nano_bundles["int8"])
    assert usual.device == "cpu"
    assert session.answer(ASKED, probe_image) == usual.answer(ASKED, probe_image)
    assert not caplog.messages
    if hasattr(session, "fork"):
        assert session.fork().device == "cuda"


@pytest.mark.parametrize("fault", ["another answer", "a runtime that refuses"])
def test_else_the_cpu_is_and_a_line_says_why(cuda, nano_bundles, probe_image, caplog, monkeypatch, fault):
    """Also where some library wants nothing below an error to be told."""
    monkeypatch.setattr(logging.root, "level", logging.ERROR)
    whole = onnx_engine.OnnxEngine

    def made(files, config, capacity, threads, device="cpu", *other):
        if device == "cpu":
            return whole(files, config, capacity, threads, device, *other)
        if fault == "another answer":
            return Skewed(files, config, capacity, threads, device, *other)
        raise RuntimeError("out of memory\non the device")

    monkeypatch.setattr(onnx_engine, "OnnxEngine", made)
    session = open_bundle(nano_bundles["int8"], device="cuda")
    assert session.device == "cpu"
    (line,) = caplog.messages
    assert "not on cuda: " in line
    assert ("its self-test failed there" if fault == "another answer" else "out of memory") in line
    assert len(line.splitlines()) == 1
    assert session.answer(ASKED, probe_image).startswith("a ")


def test_one_that_is_not_here_is_an_error_that_lists_those_that_are(nano_bundles):
    with pytest.raises(InputError, match="device 'cuda': ONNX Runtime has cpu on this machine"):
        open_bundle(nano_bundles["int8"], device="cuda")
    for command in ("run", "verify", "bench"):
        words = ["--bundle", nano_bundles["int8"], "--prompt", ASKED] if command == "run" else [nano_bundles["int8"]]
        result = himix(command, *words, "--provider", "tpu")
        assert result.returncode == 2
        assert "device 'tpu': ONNX Runtime has cpu on this machine" in result.stderr


def test_a_record_says_what_computed(nano_bundles):
    few = ["--iterations", "1", "--warm-up", "0", "--new-tokens", "2", "--json"]
    result = himix("bench", nano_bundles["int8"], "--provider", "cpu", *few)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[0]["settings"]["provider"] == "cpu"


def test_execution_providers_by_their_names(monkeypatch):
    there = ["CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(get_available_providers=lambda: there))
    assert providers.devices() == ("cuda", "openvino:CPU", "openvino:GPU", "openvino:NPU")
    assert providers.provider_of("openvino:GPU") == ("OpenVINOExecutionProvider", {"device_type": "GPU"})
    assert providers.provider_of("cuda") == ("CUDAExecutionProvider", {})


def test_a_provider_that_onnx_runtime_drops_is_told(nano_bundles, monkeypatch):
    """It goes on without a provider that cannot start, in silence."""
    monkeypatch.setattr(providers, "PROVIDERS", {"cuda": "CUDAExecutionProvider"})
    with pytest.raises(InputError, match=r"(cannot use cuda on this machine)|(cannot load it)"):
        onnx_engine.open_graph(nano_bundles["int8"] / "decoder.onnx", None, device="cuda")


def test_openvino_and_core_ml_say_what_they_have(monkeypatch):
    core = types.SimpleNamespace(available_devices=["CPU", "GPU.0", "GPU.1", "NPU"])
    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=lambda: core))
    assert openvino.devices() == ("gpu.0", "gpu.1", "npu")
    assert coreml.devices() == (tuple(coreml.COMPUTE_UNITS) if sys.platform == "darwin" else ())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert coreml.RUNTIME.preferred() == ("all", "cpu+gpu", "cpu+npu")
