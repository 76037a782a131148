"""Adapters that are damaged, another model's, or something that is not followed: one line, and nothing is used."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from himix_edge import load_checkpoint
from himix_edge.adapter_file import Adapter
from himix_edge.checkpoints import save_trained
from himix_edge.checkpoints import trained as trained_module
from himix_edge.checkpoints.adapters import as_file, merged, open_adapter
from himix_edge.checkpoints.assemble import assemble, model_weights
from himix_edge.checkpoints.identity import base_id
from himix_edge.checkpoints.trained import Base
from himix_edge.errors import InputError
from himix_edge.export.quantization.folding import fold_image_norms
from himix_edge.export.quantization.smoothing import largest_inputs, moved, smooth
from himix_edge.low_rank import adapter_linears
from himix_edge.runtimes.adapter import AdapterRoom
from tests.adapters.conftest import MOST, RANK, TEXT, peft_model
from tests.conftest import TINY

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def room():
    return AdapterRoom(MOST, "b" * 64, {}, TINY, "bundle")


@pytest.fixture
def stored(tmp_path):
    """An adapter's file of one linear, with what it is made of."""
    tensors = {f"{Q}.lora_A": np.ones((64, 2), np.float32), f"{Q}.lora_B": np.ones((2, 64), np.float32)}
    path = tmp_path / "a.safetensors"
    Adapter(tensors, 2, "b" * 64, str(path)).save(path)
    return path, tensors, {"format": "himix-adapter-1", "rank": "2", "base": "b" * 64}


def test_a_file_is_what_it_was_made_of(stored, room):
    path, tensors, metadata = stored
    adapter, factors = room.open(path)
    assert adapter.rank == 2
    assert adapter.image_digest(TINY) == ""
    assert {name: array.shape for name, array in factors["vision_injector"].items()} == {
        f"model.layers.{layer}.self_attn.{kind}_proj_img.lora_{half}": shape
        for layer in range(2) for kind in "kv" for half, shape in (("A", (32, 2)), ("B", (2, 32)))
    }  # fmt: skip
    for name, array in factors["decoder"].items():
        assert np.array_equal(array, tensors.get(name, np.zeros_like(array))), name
    with safe_open(path, "numpy") as file:
        assert file.metadata() == metadata
    Adapter(tensors, 2, "b" * 64, "").save(path)  # its own kind is replaced
    path.write_bytes(b"{}")
    with pytest.raises(InputError, match="something else"):
        Adapter(tensors, 2, "b" * 64, "").save(path)


def changed(of, **changes):
    return {**of, **changes}


@pytest.mark.parametrize(("tensors", "metadata", "words"), [
    (lambda t: t, {"base": "c" * 64}, "made for another model"),
    (lambda t: t, {"base": "../x"}, "names no model"),
    (lambda t: t, {"format": "himix-image-kv-1"}, "not an adapter's file"),
    (lambda t: t, {"rank": "0"}, "rank is '0'"),
    (lambda t: t, {"rank": "9999"}, "rank is '9999'"),
    (lambda t: t, {"rank": "3"}, "has shape"),
    (lambda t: changed(t, **{f"{Q}.lora_A": t[f"{Q}.lora_A"].astype(np.float16)}), {}, "float32"),
    (lambda t: changed(t, **{f"{Q}.lora_A": t[f"{Q}.lora_A"] * np.float32("nan")}), {}, "NaN"),
    (lambda t: changed(t, **{f"{Q}.lora_A": np.ones((63, 2), np.float32)}), {}, "has shape"),
    (lambda t: {f"{Q}.lora_A": t[f"{Q}.lora_A"]}, {}, "has no model.layers.0.self_attn.q_proj.lora_B"),
    (lambda t: changed(t, **{"model.layers.9.self_attn.q_proj.lora_A": np.ones((64, 2), np.float32)}), {}, "fits no"),
    (lambda t: changed(t, **{"model.norm.weight": np.ones(64, np.float32)}), {}, "fits no linear"),
    (lambda t: {}, {}, "holds no tensors"),
])  # fmt: skip
def test_wrong_files_are_refused(stored, room, tmp_path, tensors, metadata, words):
    path = tmp_path / "wrong.safetensors"
    save_file(tensors(stored[1]), path, {**stored[2], **metadata})
    with pytest.raises(InputError, match=words) as refusal:
        room.open(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_rank_beyond_the_bundles_says_which_to_export_with(room, tmp_path):
    tensors = {f"{Q}.lora_A": np.ones((64, 5), np.float32), f"{Q}.lora_B": np.ones((5, 64), np.float32)}
    with pytest.raises(
        InputError, match="its rank is 5, bundle takes up to 4; export that again with --adapter-rank 5"
    ):
        room.open(Adapter(tensors, 5, "b" * 64, "five"))


def test_headers_that_lie_are_refused_unread(tmp_path, room):
    path = tmp_path / "huge"
    for content, words in (
        ((1 << 40).to_bytes(8, "little") + b"{}", "its header says 1099511627776 bytes"),
        (b"", "damaged"), ((2).to_bytes(8, "little") + b"{}", "not an adapter's file"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            room.open(path)
    with path.open("wb") as file:
        file.truncate(8 << 30)  # sparse
    with pytest.raises(InputError, match="larger than any adapter of this model"):
        room.open(path)
    with pytest.raises(InputError, match="no such file"):
        room.open(tmp_path / "gone")
    with pytest.raises(InputError, match="a folder"):
        room.open(tmp_path)


CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none"}


@pytest.mark.parametrize(("changes", "words"), [
    ({"use_dora": True}, "DoRA"), ({"bias": "lora_only"}, "trained biases"), ({"lora_bias": True}, "biases of LoRA"),
    ({"modules_to_save": ["lm_head"]}, "modules that are saved whole"), ({"peft_type": "IA3"}, "only LORA"),
    ({"init_lora_weights": "pissa"}, "'pissa' changes the base's weights"), ({"r": 0}, "r"), ({"r": "8"}, "r"),
    ({"trainable_token_indices": [1]}, "trained tokens"), ({"use_qalora": True}, "QALoRA"),
    ({"fan_in_fan_out": True}, "transposed"), ({"layer_replication": [[0, 2]]}, "replicated"),
    ({"some_new_thing": {"x": 1}}, "some_new_thing"), ({"rank_pattern": {"(a+)+": 2}}, "no name of a module"),
    ({"lora_alpha": 1e9}, "lora_alpha"), ({"r": 2}, "has shape"), ({"target_parameters": ["x"]}, "experts"),
])  # fmt: skip
def test_what_is_no_plain_lora_is_refused_by_name(tmp_path, changes, words):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    halves = {
        f"base_model.model.{Q}.lora_A.weight": torch.ones(RANK, 64),
        f"base_model.model.{Q}.lora_B.weight": torch.ones(64, RANK),
    }
    save_torch(halves, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=words):
        open_adapter(tmp_path, TINY)


@pytest.mark.parametrize(("names", "words"), [
    (["model.embed_tokens.lora_embedding_A"], "no half of a linear's LoRA"),
    ([f"base_model.model.{Q}.lora_magnitude_vector.weight"], "no half"),
    (["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"], "fits no linear"),
    ([f"base_model.model.{Q}.lora_A.weight"], "has no lora_B"), ([], "holds no tensors"),
])  # fmt: skip
def test_tensors_that_are_no_pairs_are_refused(tmp_path, names, words):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_torch({name: torch.ones(RANK, 64) for name in names}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=words):
        open_adapter(tmp_path, TINY)


def test_pickles_nothing_and_nan_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such adapter"):
        open_adapter(tmp_path / "gone", TINY)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match=r"adapter_model.safetensors: no such file"):
        open_adapter(tmp_path, TINY)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pickle"):
        open_adapter(tmp_path, TINY)
    halves = {f"{Q}.lora_A.weight": torch.full((RANK, 64), torch.nan), f"{Q}.lora_B.weight": torch.ones(64, RANK)}
    save_torch(halves, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="NaN"):
        open_adapter(tmp_path, TINY)


@pytest.mark.parametrize("name", [
    f"base_model.model.{Q}", Q.replace("model.layers", "model.language_model.layers"), Q.replace("model.", "", 1),
])  # fmt: skip
def test_other_libraries_names_of_the_same_linear_are_known(tmp_path, name):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    halves = {f"{name}.lora_A.weight": torch.ones(RANK, 64).bfloat16(), f"{name}.lora_B.weight": torch.ones(64, RANK)}
    save_torch(halves, tmp_path / "adapter_model.safetensors")
    found = open_adapter(tmp_path, TINY)
    assert list(found.pairs) == [Q]
    assert torch.equal(found.pairs[Q][1], 2 * torch.ones(64, RANK))  # alpha / r


@pytest.mark.parametrize("settings", [
    {}, {"use_rslora": True}, {"rank_pattern": {"layers.0.mlp.down_proj": 2}, "alpha_pattern": {"q_proj": 1}},
])  # fmt: skip
def test_merged_weights_are_pefts_own_merge(tmp_path, tiny_checkpoint, source, settings):
    model = peft_model(tiny_checkpoint, 2, TEXT, **settings)
    model.save_pretrained(str(tmp_path / "a"))
    made = merged(source, tmp_path / "a")
    expected = model.merge_and_unload().state_dict()
    for name, tensor in assemble(made.config, made.weights, "merged").state_dict().items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-6), name
    assert made.adapter["name"] == "a"
    assert made.adapter["rank"] == RANK
    assert set(source.files) < set(made.files)  # so that the export's key and hash are others


def test_a_file_merges_into_its_own_model_alone(tmp_path, adapted, source):
    base = base_id(source)
    as_file(open_adapter(adapted[1], TINY), TINY, base, "b").save(tmp_path / "own.safetensors")
    expected, found = merged(source, adapted[1]), merged(source, tmp_path / "own.safetensors")
    for name, tensor in expected.weights.items():
        assert torch.allclose(tensor.read(), found.weights[name].read(), rtol=0, atol=1e-6), name
    as_file(open_adapter(adapted[1], TINY), TINY, "0" * 64, "b").save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="model beneath its adapters"):
        merged(source, tmp_path / "other.safetensors")


def test_a_checkpoint_trained_with_lora_is_an_adapter_of_what_is_beneath(tmp_path, tiny_checkpoint, text, monkeypatch):
    base = load_checkpoint(tiny_checkpoint)
    weights = model_weights(base)
    for module in ("source", "adapters"):
        monkeypatch.setattr(f"himix_edge.checkpoints.{module}.base_weights", lambda _: dict(weights))
    halves = {f"{Q}.lora_A": torch.randn(2, 64).half(), f"{Q}.lora_B": torch.randn(64, 2).half()}
    image = {"model.layers.0.self_attn.k_proj_img.weight": torch.randn(32, 32).half()}
    packages = Base("smollm2-135m", "efficientnet-lite0")
    for name, tensors in (("beneath", image), ("trained", halves | image), ("whole", {})):
        save_trained(tmp_path / name, TINY, weights, tensors, 2.0, text, {}, packages)
    beneath = trained_module.overlay(weights, model_weights_of(image), 0.0, "beneath")
    stored = open_adapter(tmp_path / "trained", TINY)
    assert torch.equal(stored.pairs[Q][1], 2 * halves[f"{Q}.lora_B"].float())
    own = as_file(stored, TINY, stored.base, "bundle")
    assert list(own.tensors) == [f"{Q}.lora_A", f"{Q}.lora_B"]
    with pytest.raises(InputError, match="model beneath its adapters"):
        as_file(stored, TINY, "0" * 64, "bundle")
    from himix_edge.checkpoints.source import open_source

    assert stored.base == base_id(open_source(tmp_path / "beneath"))
    assert stored.base == base_id(open_source(tmp_path / "whole"), beneath)
    with pytest.raises(InputError, match="holds no adapter"):
        open_adapter(tmp_path / "beneath", TINY)


def model_weights_of(tensors):
    from himix_edge.checkpoints.lazy import as_weights

    return as_weights(tensors)


def test_what_an_export_moves_between_linears_moves_in_the_adapter_too(tiny_checkpoint, source, adapted):
    """Smoothing and folding change a linear's input and output; with its scales the adapter adds the same."""
    model = load_checkpoint(tiny_checkpoint)
    texts = torch.randint(0, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    weights = smooth(fold_image_norms(model_weights(model)), largest_inputs(model, texts))
    scales = {name: scale.numpy() for name, scale in moved(weights).items()}
    assert {name.rpartition(".")[2] for name in scales} == {"input", "output"}
    room = AdapterRoom(MOST, "b" * 64, scales, TINY, "bundle")
    _, factors = room.open(as_file(open_adapter(adapted[1], TINY), TINY, "b" * 64, "b"))
    other = assemble(TINY, weights, "smoothed")
    flat = {name: torch.from_numpy(array) for of_role in factors.values() for name, array in of_role.items()}
    for name in adapter_linears(TINY):
        linear = other.get_submodule(name)
        linear.weight = torch.nn.Parameter(linear.weight + (flat[f"{name}.lora_A"] @ flat[f"{name}.lora_B"]).T)
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = (m(texts[:1], pixel_values=pixels) for m in (adapted[0], other))
    assert float((expected - found).abs().max() / expected.std()) < 2e-5


def test_places_and_scales_of_a_hostile_bundle_are_checked(bundles, tmp_path):
    from himix_edge.bundle import Bundle, read_manifest
    from himix_edge.runtimes.adapter import adapter_room

    folder = shutil.copytree(bundles["onnx"], tmp_path / "b")
    scales = load_file(folder / "adapter_scales.safetensors")
    manifest = read_manifest(folder)
    name = next(iter(scales))
    for change, words in (
        ({name: scales[name][:-1]}, "has shape"), ({name: scales[name] * np.float32("inf")}, "NaN or infinite"),
        ({"x.input": scales[name]}, "no linear's scale"), ({name: scales[name].astype(np.float64)}, "F64"),
    ):  # fmt: skip
        save_file(change, folder / "adapter_scales.safetensors")
        with pytest.raises(InputError, match=words):
            adapter_room(Bundle(folder, manifest))
    raw = json.loads((folder / "manifest.json").read_text())
    for places in ({"rank": 0}, {"rank": 4096}, {"base": "x"}, {"scales": "../x"}, {"scales": "other"}, {"more": 1}):
        (folder / "manifest.json").write_text(json.dumps(raw | {"adapters": raw["adapters"] | places}))
        with pytest.raises(InputError):
            read_manifest(folder)
