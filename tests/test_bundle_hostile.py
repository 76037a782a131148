"""Bundles made to mislead: files that nothing vouches for, links, pipes, odd paths, and manifests that contradict."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from himix_edge.bundle import MANIFEST, all_files, file_record, read_manifest
from himix_edge.errors import InputError
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.checked_engine import CheckedEngine
from himix_edge.runtimes.onnx.files import external_data
from himix_edge.runtimes.verifying import open_verified, read_beside
from himix_edge.text import TextProcessor


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def edit(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def vouch(folder, *names):
    """List these files of the vision injector as they are now, its graph first."""
    records = [file_record(folder, folder / name).model_dump() for name in names]
    edit(folder, lambda m: m["roles"].update(vision_injector=records))


def unlisted(name):
    return lambda m: m.update(files=[record for record in m["files"] if record["path"] != name])


# ---------------------------------------------------------------- files


def move_weights(folder, location):
    path = folder / "vision_injector.onnx"
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=256)
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(graph.SerializeToString())


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/tmp/w.bin", "selftest/../w.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_of_a_graph_have_to_be_listed(copy, location):
    move_weights(copy, location)
    vouch(copy, "vision_injector.onnx")
    with pytest.raises(InputError, match=r"vision_injector\.onnx: reads .*does not list"):
        open_bundle(copy)


def test_listed_weights_outside_of_a_graph_are_read(copy):
    move_weights(copy, "w.bin")
    vouch(copy, "vision_injector.onnx", "w.bin")
    image = copy / "selftest" / "pixels.png"
    assert open_bundle(copy).encode_image(image).tokens == 16


def outside(name):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def graph_with(**parts):
    return helper.make_graph(parts.pop("nodes", []), "g", [], [], **parts)


def sparse(name):
    values = outside(name)
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, indices, [4])


def node(**attributes):
    made = helper.make_node("If", [], [])
    made.attribute.extend([helper.make_attribute(name, value) for name, value in attributes.items()])
    return made


PLACES = {
    "initializer": lambda: graph_with(initializer=[outside("w")]),
    "sparse initializer": lambda: graph_with(sparse_initializer=[sparse("w")]),
    "attribute": lambda: graph_with(nodes=[node(value=outside("w"))]),
    "attribute of several": lambda: graph_with(nodes=[node(values=[outside("w")])]),
    "sparse attribute": lambda: graph_with(nodes=[node(value=sparse("w"))]),
    "subgraph": lambda: graph_with(nodes=[node(then_branch=graph_with(initializer=[outside("w")]))]),
    "subgraphs": lambda: graph_with(nodes=[node(branches=[graph_with(nodes=[node(value=outside("w"))])])]),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_stands(tmp_path, place):
    path = tmp_path / "a.onnx"
    path.write_bytes(helper.make_model(PLACES[place]()).SerializeToString())
    assert external_data(path) == {"w"}


def test_external_data_of_a_function(tmp_path):
    function = helper.make_function("d", "f", [], [], [node(value=outside("w"))], [helper.make_opsetid("", 20)])
    path = tmp_path / "a.onnx"
    path.write_bytes(helper.make_model(graph_with(), functions=[function]).SerializeToString())
    assert external_data(path) == {"w"}


def test_what_is_no_onnx_file(tmp_path):
    path = tmp_path / "a.onnx"
    graph = graph_with(initializer=[helper.make_tensor("w", TensorProto.FLOAT, [9], np.ones(9))])
    whole = helper.make_model(graph).SerializeToString()
    for content in (b"", whole[:-3], b"\x0b" + whole, b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not an ONNX file"):
            external_data(path)


def test_other_formats_files(tmp_path):
    assert list(read_beside(tmp_path, "openvino", "a/decoder.xml")) == ["a/decoder.bin"]
    package = tmp_path / "a.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "w.bin").touch()
    (package / "Manifest.json").touch()
    assert set(read_beside(tmp_path, "coreml", "a.mlpackage/Manifest.json")) == {
        "a.mlpackage/Data/w.bin",
        "a.mlpackage/Manifest.json",
    }
    (package / "link").symlink_to("Data")
    with pytest.raises(InputError, match="link"):
        list(read_beside(tmp_path, "coreml", "a.mlpackage/Manifest.json"))


@pytest.mark.parametrize(("target", "name"), [("openvino", "a.onnx"), ("onnx", "a.ort"), ("coreml", "Manifest.json")])
def test_a_main_file_of_another_format(tmp_path, target, name):
    with pytest.raises(InputError, match=f"no file of the target {target}"):
        list(read_beside(tmp_path, target, name))


@pytest.mark.parametrize("name", ["tokenizer.json", "selftest/image.png"])
def test_what_a_session_opens_has_to_be_listed(copy, name):
    edit(copy, unlisted(name))
    with pytest.raises(InputError, match=f"{name} is not among the listed files"):
        open_bundle(copy)


def test_a_file_that_nothing_reads_may_lie_there(copy):
    (copy / "README.md").write_text("mine")
    assert "README.md" not in {record.path for record in all_files(open_verified(copy).manifest)}


def test_links_are_refused_inside_of_the_bundle_too(copy):
    (copy / "tokenizer.json").rename(copy / "other.json")
    (copy / "tokenizer.json").symlink_to("other.json")
    with pytest.raises(InputError, match=r"tokenizer\.json: a link"):
        open_verified(copy)


def test_a_linked_folder_is_refused(copy):
    (copy / "selftest").rename(copy / "there")
    (copy / "selftest").symlink_to("there")
    with pytest.raises(InputError, match="selftest: a link"):
        open_verified(copy)


def test_a_linked_manifest_is_refused(copy):
    (copy / MANIFEST).rename(copy / "m.json")
    (copy / MANIFEST).symlink_to("m.json")
    with pytest.raises(InputError, match=r"manifest\.json: a link"):
        open_verified(copy)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders_are_no_files(copy, make):
    (copy / "tokenizer.json").unlink()
    make(copy / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer\.json: (not a regular file|a folder)"):
        open_verified(copy)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", [
    "a" * 300, "a/" * 200 + "b", "CON", "aux.txt", "a.", "a b", "tok\u00e9", "-x", "a//b", "./a", "a\n", ".", "a;b",
])  # fmt: skip
def test_paths_that_some_system_reads_otherwise(copy, path):
    edit(copy, lambda m: m["files"].append({"path": path, "bytes": 1, "sha256": "0" * 64}))
    if path == "-x":  # a plain name
        with pytest.raises(InputError, match="missing"):
            open_verified(copy)
        return
    with pytest.raises(InputError, match=r"refused"):
        read_manifest(copy)


def test_two_spellings_of_one_file(copy):
    edit(copy, lambda m: m["files"].append({**m["files"][0], "path": "Tokenizer.JSON"}))
    with pytest.raises(InputError, match="one file on some systems"):
        read_manifest(copy)


def test_one_file_with_two_hashes(copy):
    edit(copy, lambda m: m["files"].append({**m["files"][0], "sha256": "0" * 64}))
    with pytest.raises(InputError, match="listed twice"):
        read_manifest(copy)


# ---------------------------------------------------------------- the manifest


@pytest.mark.parametrize(("change", "field"), [
    (lambda m: m.update(context_capacity="96"), "context_capacity"),
    (lambda m: m["roles"]["decoder"][0].update(bytes="1"), "bytes"),
    (lambda m: m["files"][0].update(bytes=10**400), "bytes"),
    (lambda m: m["selftest"].update(ends=1), "ends"),
    (lambda m: m.update(name="a b"), "name"),
    (lambda m: m.update(name="a" * 129), "name"),
    (lambda m: m.update(name="-rf"), "name"),
    (lambda m: m["roles"].update(extra=[]), "extra"),
    (lambda m: m.update(vision_tokens=15), "vision_tokens is 15"),
    (lambda m: m["preprocessing"].update(image_size=33), "image_size is 33"),
    (lambda m: m["preprocessing"].update(method="pillow-bicubic-squash"), "method is"),
    (lambda m: m.update(context_capacity=16), "context_capacity 16"),
    (lambda m: m.update(context_capacity=97), "context_capacity 97"),
    (lambda m: m["chat_template"].update(image={"slot": "a", "before": "", "between": "", "after": ""}),
     r"chat_template\.image is there and model\.images is not"),
    (lambda m: m["model"].update(vision_config=None, vision_hidden_size=None), "no vision_config"),
    (lambda m: m["selftest"]["token_ids"].append(400), "no token 400"),
    (lambda m: m["selftest"].update(token_ids=[-1]), "token_ids"),
    (lambda m: m["selftest"].update(token_ids=[1] * 97), "longer than the context"),
    (lambda m: m["tools"].update(torch="x" * 300), "tools"),
    (lambda m: m["provenance"].update(by="\ud800"), r"half a character|surrogate"),
])  # fmt: skip
def test_a_manifest_that_is_not_what_it_should_be(copy, change, field):
    edit(copy, change)
    with pytest.raises(InputError, match=field) as refused:
        read_manifest(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_parity_value_that_is_no_number(copy, number):
    edit(copy, lambda m: m["parity"][0].update(value=123456.5))
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace("123456.5", number))
    with pytest.raises(InputError):
        read_manifest(copy)


def test_a_cache_beyond_any_machine(copy):
    def enlarge(m):
        m["model"].update(num_hidden_layers=1024, max_position_embeddings=1 << 24)
        m.update(context_capacity=1 << 24)

    edit(copy, enlarge)
    with pytest.raises(InputError, match="its cache would take more than 256 GiB"):
        read_manifest(copy)


def test_a_cache_larger_than_this_machines_memory(copy, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(InputError, match="GiB of memory"):
        open_bundle(copy)


# ---------------------------------------------------------------- while it is open


def test_a_bundle_that_is_deleted_while_it_is_open(copy, probe_image):
    session = open_bundle(copy)
    before = session.answer("What is it?", probe_image, max_new_tokens=3)
    shutil.rmtree(copy)
    assert session.answer("What is it?", probe_image, max_new_tokens=3) == before


def test_a_file_that_is_written_to_while_the_bundle_is_open(copy, probe_image):
    session = open_bundle(copy)
    os.truncate(copy / "decoder.onnx", 100)
    with pytest.raises(InputError, match=r"decoder\.onnx: changed while it was open"):
        session.answer("What is it?", probe_image)


def test_a_file_that_is_replaced_before_the_runtime_opens_it(copy):
    bundle = open_verified(copy)
    (copy / "decoder.onnx").rename(copy / "old.onnx")
    shutil.copyfile(copy / "old.onnx", copy / "decoder.onnx")
    with pytest.raises(InputError, match=r"decoder\.onnx: changed while it was being opened"):
        bundle.held.check_in_place()


# ---------------------------------------------------------------- graphs


class Graph:
    """An engine that gives what it is told."""

    def __init__(self, result):
        self.capacity, self.result = 96, result

    def encode(self, pixels):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(("result", "message"), [
    (np.zeros((1, 16, 31), np.float32), "vision features are float32"),
    (np.zeros((1, 16, 32), np.float16), "vision features are float16"),
    (None, "vision features are NoneType"),
    (RuntimeError(""), "vision_encoder cannot be run: RuntimeError"),
    (MemoryError("first\nsecond"), "vision_encoder cannot be run: first$"),
])  # fmt: skip
def test_a_graph_that_gives_something_else(copy, result, message):
    bundle = open_verified(copy)
    engine = CheckedEngine(Graph(result), copy, bundle.config, bundle.held)
    with pytest.raises(InputError, match=message):
        engine.encode(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_token_that_is_none_is_told_with_the_file_that_holds_the_template(copy):
    edit(copy, lambda m: m["chat_template"].update(stop=["<|nope|>"]))
    with pytest.raises(InputError, match=r"/manifest\.json: chat_template: '<\|nope\|>' is not a token of tokenizer"):
        open_bundle(copy)
    template = json.loads((copy / MANIFEST).read_text())["chat_template"]
    (copy / "chat_template.json").write_text(json.dumps(template))
    with pytest.raises(InputError, match=r"/chat_template\.json: '<\|nope\|>' is not a token"):
        TextProcessor.load(copy)


def test_a_tokenizer_with_more_tokens_than_the_model(copy):
    edit(copy, lambda m: (m["model"].update(vocab_size=320), m["selftest"].update(token_ids=[])))
    with pytest.raises(InputError, match=r"tokenizer\.json: .* ids beyond the model's 320 rows"):
        open_bundle(copy)
