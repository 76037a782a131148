"""The conformance suite: the package gives what it says, a planted fault is found, and it says what it said."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.suite import write
from himix_edge.errors import InputError
from tests.conformance_client import Client

QUESTIONS = 12


@pytest.fixture(scope="module")
def client(tmp_path_factory, nano_bundles) -> Client:
    out = tmp_path_factory.mktemp("conformance") / "suite"
    write(out, [nano_bundles["int8"]], questions=QUESTIONS)
    return Client(out, nano_bundles["int8"])


# where the package does otherwise than the phones and the page, and why that is harmless here
DEVIATIONS = {
    "images: 30,000 x 30,000, the header alone": "it is refused in a line without its size",
    "manifests: target: 'onnx_portable'": "the package runs that target too",
    "manifests: target: 'onnx_qnn'": "the package runs that target too",
    "manifests: feature_layers [-1, -1, -1, -1, -1]": "it is refused as a wrong vision_hidden_size",
    "manifests: chat_template.user: ['<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<": "it is searched in linear time",
    # the tokenizers library gives tokens that are added the next free ids, whatever the file says
    "tokenizers: one id twice": "the last one decodes",
    'tokenizers: an added token with {"content": ""}': "it is dropped",
    'tokenizers: an added token with {"id": 512}': "its id is not used",
    'tokenizers: an added token with {"id": 2147483648}': "its id is not used",
    'tokenizers: an added token with {"content": "<|endoftext|>", "id": 1}': "its id is not used",
}


@pytest.mark.parametrize("kind", ["pixels", "tiles", "texts", "picture_texts", "sampling", "answers", "image_kv"])
def test_the_package_conforms(client: Client, kind: str) -> None:
    assert list(getattr(client, f"check_{kind}")()) == []


def test_the_package_conforms_on_what_is_hostile(client: Client, tmp_path: Path) -> None:
    found = [*client.check_hostile_files(), *client.check_hostile_bundles(tmp_path)]
    assert {problem.split(" -> ")[0] for problem in found} == set(DEVIATIONS), found


def _first(client: Client, file: str, *path: str | int):
    found = client.json(file)
    for step in path:
        found = found[step]
    return found


FAULTS: dict[str, tuple[str, Callable[[Client], object]]] = {
    "a pixel": ("pixels", lambda c: c.json("images.json")["gamma.png"]["resized"][0].update(sha256="0" * 64)),
    "a turn": ("pixels", lambda c: c.json("images.json")["exif-6.png"].update(orientation=8)),
    "a tile": ("tiles", lambda c: c.json("tiles.json")[96]["tiles"].reverse()),
    "a row": ("tiles", lambda c: c.json("tiles.json")[97].update(rows=5)),
    "an embedding": ("tiles", lambda c: c.json("arranged.json")[3]["expected"].reverse()),
    "a slot": ("picture_texts", lambda c: _first(c, "pictures/rows/cases.json", "pictures", 3, "ids").remove(-1)),
    "what follows": ("picture_texts", lambda c: _first(c, "pictures/grid/cases.json", "prompts", 0, "behind").pop()),
    "an id": ("texts", lambda c: _first(c, "tokenizers/qwen2/cases.json", "texts", 0, "ids").append(5)),
    "a chat's id": ("texts", lambda c: _first(c, "tokenizers/nano/cases.json", "conversations", 0, "ids").pop()),
    "a piece": ("texts", lambda c: _first(c, "tokenizers/nano/cases.json", "streams", 0, "pieces").append("x")),
    "a prompt": ("texts", lambda c: _first(c, "tokenizers/nano/cases.json", "empty").append("What?")),
    "a probability": ("sampling", lambda c: _first(c, "sampling.json", "probabilities", 0, "probabilities").sort()),
    "a stop": ("sampling", lambda c: _first(c, "sampling.json", "stops", 5, "shown").append(["x", True])),
    "a token": ("answers", lambda c: c.answers()["questions"][0]["token_ids"].append(5)),
    "a turn of a chat": ("answers", lambda c: c.answers()["conversations"]["turns"][0].update(token_ids=[])),
    "a key": ("image_kv", lambda c: c.answers()["image_kv"].update(key_sha256="0" * 64)),
    "a model": ("image_kv", lambda c: c.answers()["image_kv"].update(model_id="another")),
    "a good image": ("hostile_files", lambda c: _first(c, "hostile.json", "images", 0).update(expect="refused")),
    "a bad ImageKV": ("hostile_files", lambda c: _first(c, "hostile.json", "image_kvs", 2).update(expect="same")),
    "a word": ("hostile_files", lambda c: _first(c, "hostile.json", "image_kvs", 3).update(words=["unheard of"])),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(client: Client, fault: str) -> None:
    kind, plant = FAULTS[fault]
    other = Client(client.suite, client.bundle)
    plant(other)
    found = {problem.split(" -> ")[0] for problem in getattr(other, f"check_{kind}")()}
    assert found - set(DEVIATIONS)


def test_it_says_what_it_said(client: Client) -> None:
    """Files that clients were checked with stay as they are until someone changes them on purpose."""
    texts = client.json("tokenizers/nano/cases.json")["texts"]
    images = client.json("images.json")
    noisy = [case["sha256"] for name in sorted(images) if name.startswith("noisy-") for case in images[name]["resized"]]
    assert _digest([case["ids"] for case in texts]) == "1a15d9e29e7c8255"
    assert _digest(noisy) == "d249198e0a0b4151"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def test_every_file_that_it_names_is_there(client: Client) -> None:
    names = {client.suite / path for path in _paths(client.json("images.json")) | _paths(client.json("hostile.json"))}
    assert len(names) > 500
    assert [path for path in names if not path.exists() and not path.is_symlink()] == []


def _paths(value: object) -> set[str]:
    """What stands in the fields that name files."""
    if isinstance(value, list):
        return set().union(*map(_paths, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    fields = {value[name] for name in ("file", "folder", "raw", "pixels") if name in value}
    return fields.union(*map(_paths, value.values()))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, nano_bundles) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="no conformance suite"):
        write(tmp_path, [nano_bundles["int8"]])
    assert (tmp_path / "letter.txt").read_text() == "dear"
