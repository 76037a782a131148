"""Bundles are not trusted: damaged, incomplete and hostile ones are refused by a line that names the file."""

import json
import shutil

import pytest

from himix_edge.bundle import MANIFEST
from himix_edge.errors import GateRefused, InputError
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.verifying import open_verified


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def edit(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["decoder.onnx", "vision_encoder.onnx", "vision_injector.onnx", "tokenizer.json", "selftest/pixels.png"]
)
def test_every_file_is_checked(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(GateRefused, match=f"{name}.*SHA-256"):
        open_bundle(copy)
    (copy / name).write_bytes(data[:-1])
    with pytest.raises(GateRefused, match=f"{name}.*bytes"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        open_bundle(copy)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", ""])
def test_a_path_that_leaves_the_bundle_is_refused(copy, path):
    edit(copy, lambda m: m["files"][0].update(path=path))
    with pytest.raises(InputError, match="leaves the bundle"):
        open_bundle(copy)
    edit(copy, lambda m: (m["files"][0].update(path="tokenizer.json"), m["selftest"].update(image=path)))
    with pytest.raises(InputError, match="leaves the bundle"):
        open_bundle(copy)


def test_a_link_that_leaves_the_bundle_is_refused(copy, tmp_path):
    shutil.move(copy / "tokenizer.json", tmp_path / "outside.json")
    (copy / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(InputError, match="link that leaves"):
        open_bundle(copy)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m.update(schema_version=99), "schema version 99"),
    (lambda m: m.pop("schema_version"), "schema version None"),
    (lambda m: m.update(surprise=1), "surprise"),
    (lambda m: m["roles"].pop("decoder"), "no file for decoder"),
    (lambda m: m["roles"].update(decoder=[]), "no file for decoder"),
    (lambda m: m.update(context_capacity=0), "context_capacity"),
    (lambda m: m.update(target="toaster"), "no runtime for target 'toaster'"),
    (lambda m: m.update(target="../x"), "target"),
    (lambda m: m.update(target="pytorch"), "no runtime for target .pytorch."),
    (lambda m: m["model"].update(hidden_size=-5), "hidden_size"),
    (lambda m: m.update(context_capacity=10**9), "context_capacity"),
    (lambda m: m.update(context_capacity=90), r"decoder.onnx: past_key_values.0.key is .*the manifest says"),
    (lambda m: m["model"].update(vocab_size=500), r"decoder.onnx: logits is"),
    (lambda m: m["chat_template"].update(stop=["nope"]), "nope"),
])  # fmt: skip
def test_a_manifest_that_breaks_the_schema_is_refused(copy, change, message):
    edit(copy, change)
    with pytest.raises(InputError, match=message):
        open_bundle(copy)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_manifest_that_is_no_json_object(copy, content):
    (copy / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=MANIFEST):
        open_verified(copy)


def test_not_a_bundle(tmp_path):
    with pytest.raises(InputError, match="no such bundle"):
        open_bundle(tmp_path / "none")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


def test_a_file_that_the_runtime_refuses(copy):
    (copy / "decoder.onnx").write_bytes(b"nonsense")
    from himix_edge.bundle import file_record

    record = file_record(copy, copy / "decoder.onnx").model_dump()
    edit(copy, lambda m: m["roles"].update(decoder=[record]))
    with pytest.raises(InputError, match=r"decoder.onnx: not an ONNX file"):
        open_bundle(copy)
