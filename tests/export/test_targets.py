"""Every target: the same integers, the same answers, and files that are what they should be."""

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
import torch

from himix_edge.bundle import ROLES
from himix_edge.checkpoints import save_checkpoint
from himix_edge.cli import himix
from himix_edge.config import Injection
from himix_edge.data.llava import load_llava
from himix_edge.errors import BackendMissing, GateRefused, InputError
from himix_edge.export.pipeline import PROBE, ExportRequest, export, plan
from himix_edge.export.stored_weights import compare
from himix_edge.export.targets import find_target, find_targets, target_names
from himix_edge.export.targets.executorch import weights as executorch_weights
from himix_edge.model import build_model
from himix_edge.runtimes import open_bundle, open_checkpoint
from himix_edge.runtimes.executorch import engine as executorch_engine
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.openvino import engine as openvino_engine
from himix_edge.runtimes.registry import all_runtimes, find_runtime
from himix_edge.runtimes.verifying import open_verified
from tests.conftest import FEW, QUICK, TINY

TARGETS = tuple(runtime.name for runtime in all_runtimes() if runtime.in_all)


@pytest.fixture(scope="session")
def four(tmp_path_factory, tiny_checkpoint):
    """The tiny model in int4, in all four targets, from one command; ExecuTorch's in pieces as larger models are."""
    folder = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executorch_weights, "PIECED", dict.fromkeys(executorch_weights.PIECED, (4, 32)))
        himix.main(
            [
                "export",
                "--target",
                "all",
                "--quant",
                "int4",
                "--model",
                str(tiny_checkpoint),
                "--out",
                str(folder),
                "--probe-questions",
                str(FEW),
            ],
            standalone_mode=False,
        )
    return {target: folder / f"tiny-{target}-int4" for target in TARGETS}


def test_one_command_makes_all_of_them_and_a_report(four):
    folder = four["onnx"].parent
    assert {path.name for path in folder.iterdir()} == {b.name for b in four.values()} | {"parity.md", "parity.json"}
    record = json.loads((folder / "parity.json").read_text())
    assert all(result["passed"] for results in record.values() for result in results)
    assert {r["stage"] for r in record["tiny-coreml-int4"]} == {
        "subgraphs",
        "quantised",
        "weights",
        "packed",
        "runtime",
    }
    manifests = [open_verified(bundle).manifest for bundle in four.values()]
    assert {m.quantization.method for m in manifests} == {"gptq, tuned scales and norms"}
    assert len({m.image_kv_id for m in manifests}) == 1


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml", "litert"])  # ExecuTorch's is one file
@pytest.mark.parametrize(("role", "other"), list(combinations(ROLES, 2)))
def test_a_graph_in_the_place_of_another_is_named(four, target, role, other):
    bundle = open_verified(four[target])
    swapped = {role: bundle.role_path(other), other: bundle.role_path(role)}
    with pytest.raises(InputError, match=r": takes .* of the manifest's model takes|: no function ") as refused:
        load_engine(bundle, role_files=swapped)
    names = [str(path.parent if target == "coreml" else path) for path in swapped.values()]
    assert any(name in str(refused.value) for name in names)
    assert "\n" not in str(refused.value)


def test_the_same_integers_are_in_every_file(four):
    found = compare([open_verified(bundle) for bundle in four.values()])
    assert all(comparison.passed for comparison in found)
    assert {comparison.tensors for comparison in found} == {len(open_verified(four["onnx"]).manifest.weights)}


@pytest.mark.parametrize("target", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TARGETS
])  # fmt: skip
def test_a_head_of_its_own(target, tmp_path, text):
    """The gate reads the embedding back, which no matmul uses then. Slow: adds the targets that take long to export."""
    torch.manual_seed(0)
    decoder = dataclasses.replace(TINY.decoder, model_type="llama", tie_word_embeddings=False)
    model = build_model(dataclasses.replace(TINY, decoder=decoder)).requires_grad_(False)
    source = tmp_path / "checkpoint"
    save_checkpoint(source, model, text)
    asked = ExportRequest(str(source), target, "int4", tmp_path / "bundle", rounding="nearest", probe_questions=FEW)
    bundle = export(plan(asked))
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= bundle.manifest.weights.keys()
    # int8 activations may change what random weights answer; Core ML's stay float
    assert bundle.manifest.selftest.decisive == (target == "coreml")


def test_answers_and_image_kv_are_those_of_the_other_targets(four):
    sample = load_llava(PROBE).samples[0]
    sessions = {target: open_bundle(bundle) for target, bundle in four.items()}
    logits = {}
    image = sessions["onnx"].encode_image(sample.image)
    for target, session in sessions.items():
        own = session.encode_image(sample.image)
        assert own.model_id == image.model_id
        assert np.abs(own.key - image.key).max() < 0.2 * image.key.std()
        session.engine.start(image.key, image.value, image.next_position)  # one runtime's image under another's text
        session.engine.step(np.array([5, 6, 7], np.int64))
        logits[target] = session.engine.step(np.array([8], np.int64))
        text_only = session.no_image()
        session.engine.start(text_only.key, text_only.value, 0)
        assert np.isfinite(session.engine.step(np.array([5], np.int64))).all()
    for target, found in logits.items():
        assert np.sqrt(np.mean((found - logits["onnx"]) ** 2)) < 0.1 * logits["onnx"].std(), target


def test_a_long_prompt_and_two_images(four):
    """Longer than Core ML's prefill function takes at once, up to the last slot."""
    sample = load_llava(PROBE).samples[0]
    ids = np.arange(60, dtype=np.int64) + 5
    logits = {}
    for target, bundle in four.items():
        session = open_bundle(bundle)
        image = session.encode_images([sample.image, sample.image])
        assert image.tokens == 2 * TINY.vision.num_tokens
        session.engine.start(image.key, image.value, image.next_position)
        session.engine.step(ids)
        logits[target] = session.engine.step(ids[: session.capacity - image.tokens - 60])
    for target, found in logits.items():
        assert np.sqrt(np.mean((found - logits["onnx"]) ** 2)) < 0.1 * logits["onnx"].std(), target


def test_openvinos_attention_is_paged_and_its_rotary_embeddings_fused(four):
    types, layers = open_bundle(four["openvino"]).engine.layer_types, TINY.decoder.num_hidden_layers
    assert (types["PagedAttention"], types["RoPE"]) == (layers, 2 * layers)


def test_openvinos_states_serve_where_there_is_no_paged_attention(four, monkeypatch):
    def refuse(*_):
        raise RuntimeError("AttentionExecutor creation fails")

    bundle = open_verified(four["openvino"])
    pages = load_engine(bundle, activations="float")
    monkeypatch.setattr(openvino_engine, "paged", refuse)
    states = load_engine(bundle, activations="float")
    assert states.layer_types["PagedAttention"] == 0
    shape = (2, TINY.num_vision_rows, TINY.decoder.num_key_value_heads, 37, TINY.decoder.head_dim)
    key, value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for image in (slice(None), slice(0)):  # behind 37 slots, which fill no whole number of blocks, and alone
        for engine in (pages, states):
            engine.start(key[:, :, image], value[:, :, image], 0)
        for ids in (np.arange(5), np.arange(1), np.arange(3)):
            np.testing.assert_allclose(pages.step(ids), states.step(ids), rtol=1e-4, atol=1e-5)


def test_openvinos_cache_in_8_bits_holds_what_was_put_into_it(four, monkeypatch):
    bundle = open_verified(four["openvino"])
    exact, rounded = (load_engine(bundle, activations="float", kv_bits=bits) for bits in (32, 8))
    shape = (2, TINY.num_vision_rows, TINY.decoder.num_key_value_heads, 37, TINY.decoder.head_dim)
    key, value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for image in (slice(None), slice(0)):
        logits = []
        for engine in (exact, rounded, rounded.fork()):
            engine.start(key[:, :, image], value[:, :, image], 0)
            logits.append([engine.step(ids) for ids in (np.arange(5), np.arange(1), np.arange(3))])
        np.testing.assert_array_equal(logits[1], logits[2])
        assert 0 < np.abs(np.subtract(*logits[:2])).max() < 0.1 * np.std(logits[0])
        for right, found, axis in zip(exact.kept(), rounded.kept(), (2, 3), strict=True):
            assert found.shape == right.shape  # (L, G, n, h)
            step = np.ptp(right, axis, keepdims=True) / 255
            assert (np.abs(found - right) <= 1.1 * step + 0.01 * np.abs(right).max()).all()
    with pytest.raises(InputError, match="ONNX Runtime keeps its cache in 32 bits"):
        open_bundle(four["onnx"], kv_bits=8)
    with pytest.raises(InputError, match="OpenVINO keeps its cache in 32 or 8 bits"):
        open_bundle(four["openvino"], kv_bits=4)

    def refuse(*_):
        raise RuntimeError("AttentionExecutor creation fails")

    monkeypatch.setattr(openvino_engine, "paged", refuse)
    with pytest.raises(InputError, match="no paged attention"):
        open_bundle(four["openvino"], kv_bits=8)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch has another BLAS")
def test_executorchs_attention_gets_one_blas_thread_on_every_thread():
    def threads() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(executorch_engine._torch_library().mkl_serv_get_max_threads).result()

    usual = torch.get_num_threads()
    with executorch_engine.one_blas_thread():
        assert (threads(), torch.get_num_threads()) == (1, 1)
    assert (threads(), torch.get_num_threads()) == (usual, usual)


@pytest.mark.skipif(sys.platform != "linux", reason="the stack is kept on Linux only")
def test_a_signal_after_openvino_is_handled(four):
    """In a process of its own: without `signal_stack_kept` it is a segmentation fault."""
    code = """
import faulthandler, os, signal, sys
from pathlib import Path
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.executorch import engine as executorch_engine
from himix_edge.runtimes.openvino import engine as openvino_engine
from himix_edge.runtimes.loading import load_engine
faulthandler.enable()
for _ in range(2):
    open_bundle(Path(sys.argv[1]))
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", code, str(four["openvino"])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "handled\n"


def test_coreml_writes_each_layers_cache_in_place_and_repeats_no_keys(four):
    """A write that the state gets at once is done in place there, and a group's heads share its keys as they stand."""
    from himix_edge.runtimes.coreml.interpreter import load_program

    for function in load_program(four["coreml"] / "decoder.mlpackage").functions.values():
        by_kind: dict[str, list] = {}
        for operation in function.operations:
            by_kind.setdefault(operation.op_type, []).append(operation)
        writes, updates = by_kind["slice_update"], by_kind["coreml_update_state"]
        assert len(by_kind["read_state"]) == 2
        assert len(writes) == len(updates) == 2 * TINY.decoder.num_hidden_layers
        assert [update.value for update in updates] == [write.outputs[0] for write in writes]
        assert all(write.x.op.op_type in ("read_state", "coreml_update_state") for write in writes)
        assert all(len(tile.outputs[0].shape) == 4 for tile in by_kind.get("tile", []))  # of the mask, once


def test_coreml_functions_share_their_weights_and_states_fit_the_neural_engine(four):
    from himix_edge.runtimes.coreml.interpreter import Interpreter, load_program

    package = four["coreml"] / "decoder.mlpackage"
    program = load_program(package)
    assert set(program.functions) == {"prefill", "decode"}
    shape = Interpreter(program, "decode", package).state_shapes()["key_cache"]
    assert shape[2] % 32 == 0
    assert shape[2] >= open_verified(four["coreml"]).manifest.context_capacity
    weights = sum(f.stat().st_size for f in package.rglob("weight.bin"))
    integers = sum(p.numel() for n, p in build_model(TINY).named_parameters() if n.startswith("model.") and p.dim() > 1)
    assert weights < 1.5 * integers, "stored twice"


def test_differing_weights_are_found_and_named(four, tmp_path, tiny_checkpoint):
    asked = ExportRequest(str(tiny_checkpoint), "onnx", "int4", tmp_path / "n", rounding="nearest", probe_questions=FEW)
    other = export(plan(asked)).folder
    first, second = compare([open_verified(four["openvino"]), open_verified(other)])
    assert "model.layers.0.mlp.up_proj.weight" in first.others
    assert not first.reference
    assert not second.reference
    with pytest.raises(GateRefused, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        himix.main(["verify", "--weights", str(four["openvino"]), str(other)], standalone_mode=False)


@pytest.mark.slow
def test_layers_without_the_image(tmp_path, text, probe_image):
    """A subset of layers is injected: the others' caches hold text alone, at other slots.

    Slow: adds the other targets to what tests/model/test_variants.py shows in ONNX.
    """
    config = dataclasses.replace(TINY, injection=Injection(layers=(1,)))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "subset", build_model(config), text)
    for target in ("openvino", "coreml", "litert"):
        made = export(plan(ExportRequest(str(tmp_path / "subset"), target, "none", tmp_path / target)))
        assert made.config.injected_layers == (1,)
        session, reference = open_bundle(made.folder), open_checkpoint(str(tmp_path / "subset"))
        image = session.encode_image(probe_image)
        session.engine.start(image.key, image.value, image.next_position)
        reference.engine.start(image.key, image.value, image.next_position)
        for ids in (np.arange(5), np.arange(5, 6)):
            np.testing.assert_allclose(session.engine.step(ids), reference.engine.step(ids), rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx_portable", *(name for name in TARGETS if name != "onnx")])
def test_an_injection_that_mixes(target, tmp_path, text):
    """Its layers are copies of the decoder's, so that int8 weights are equal which formats know by their content.

    Slow: adds the other targets to what tests/model/test_variants.py shows in ONNX.
    """
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(TINY, injection=Injection(positions="sequence", mixing=1, slots=True)))
    model.mixer.layers[0].load_state_dict(model.model.layers[0].state_dict())
    torch.nn.init.normal_(model.model.layers[1].slots_img.key)
    save_checkpoint(tmp_path / "mixed", model, text)
    asked = ExportRequest(str(tmp_path / "mixed"), target, "int8", tmp_path / "bundle", rounding="nearest",
                          probe_questions=FEW)  # fmt: skip
    made = export(plan(asked))
    assert {"mixer.layers.0.mlp.down_proj.weight", "connector.2.weight"} <= made.manifest.weights.keys()
    assert all(comparison.passed for comparison in compare([made]))


def test_a_portable_export_has_standard_operators_and_the_same_integers(four, tmp_path, tiny_checkpoint):
    """It also runs in ONNX's own reference implementation, which shares no code with ONNX Runtime."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    out = tmp_path / "portable"
    made = export(plan(ExportRequest(str(tiny_checkpoint), "onnx_portable", "int4", out, probe_questions=FEW)))
    assert all(c.passed for c in compare([made, open_verified(four["onnx"])]))
    graph = onnx.load(made.role_path("decoder"))
    assert {node.domain for node in graph.graph.node} == {""}
    assert sum(n.op_type == "Attention" for n in graph.graph.node) == TINY.decoder.num_hidden_layers
    session = open_bundle(made.folder)
    image = session.encode_image(load_llava(PROBE).samples[0].image)
    session.engine.start(image.key, image.value, 0)
    inputs = {"input_ids": np.array([[5, 6, 7]]), "position_ids": np.arange(3)[None]}
    for layer in range(TINY.decoder.num_hidden_layers):
        inputs[f"past_key_values.{layer}.key"] = image.key[layer][None]
        inputs[f"past_key_values.{layer}.value"] = image.value[layer][None]
    expected = ReferenceEvaluator(graph).run(["logits"], inputs)[0][0]
    found = session.engine.step(np.array([5, 6, 7], np.int64))
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()


@pytest.mark.parametrize(("target", "package"), [
    ("coreml", "coremltools"), ("openvino", "openvino"), ("executorch", "executorch"), ("onnx", "onnx"),
    ("litert", "ai-edge-litert"),
])  # fmt: skip
def test_a_missing_backend_is_exit_4_with_the_pip_line(tmp_path, monkeypatch, target, package):
    import importlib.metadata

    version = importlib.metadata.version

    def without(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without)
    with pytest.raises(BackendMissing, match=rf"pip install 'himix-edge\[{target}\]'") as missing:
        himix.main(["export", "--target", target, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert missing.value.exit_code == 4


def test_names():
    assert set(TARGETS) <= set(target_names())
    assert find_targets("onnx, coreml,onnx") == ["onnx", "coreml"]
    assert find_targets("all") == sorted(TARGETS) == ["coreml", "executorch", "litert", "onnx", "openvino"]
    with pytest.raises(InputError, match="unknown target 'abacus'"):
        find_targets("onnx,abacus")
    for name in target_names():
        assert find_target(name).name == name
        assert import_module(find_runtime(name).engine).load


def test_executorch_refuses_what_it_has_no_kernels_for(tmp_path, tiny_checkpoint):
    request = ExportRequest(str(tiny_checkpoint), "executorch", "int8", tmp_path / "out", int8_activations=False)
    with pytest.raises(InputError, match="no kernels for quantized weights with float activations"):
        export(plan(request))
    assert list(tmp_path.iterdir()) == []
