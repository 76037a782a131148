"""Manifests with one thing wrong each."""

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from himix_edge.runtimes.registry import runtime_names

Case = tuple[str, bytes, dict[str, Any]]
RAW = "@raw:"  # a string "@raw:X" is written as X
SIZES = [
    "context_capacity", "vision_tokens", "model.num_hidden_layers", "model.num_key_value_heads", "model.head_dim",
    "model.vocab_size", "preprocessing.image_size", "generation.max_new_tokens", "roles.decoder.0.bytes",
]  # fmt: skip
NO_SIZES = ["64", 64.5, True, -1, 2**53, 2**63, RAW + "1e400", RAW + "NaN", RAW + "-Infinity", [], {}, [64]]
TEXTS = ["name", "target", "image_kv_id", "selftest.image", "selftest.prompt", "chat_template.bos", "files.0.path"]
NAMES = ["", ".", "..", ".hidden", "-rf", "../x", "a/b", "a b", "a;reboot", "$(reboot)", "`id`", "a'b", 'a"b', "a\nb",
         "a\x1b[31mb", "a\u202eb", "\u00e9", "a\0b", "x" * 129]  # fmt: skip
PATHS = ["", "..", "../x", "a/../../b", "/etc/passwd", "a\\b", "c:x", "a\0b", "a/./b", "a//b", "a/", "./a", ".",
         "a\nb", "a\u202eb", "x" * 300, "x/" * 600 + "x", "%2e%2e/%2e%2e/etc/passwd",
         "..%2f..%2fx", "no/such/file"]  # fmt: skip
REFUSED = "refused"


def manifests(good: dict[str, Any]) -> Iterator[Case]:
    """(name, manifest.json, {expect, words}). Everything else of the bundle is as it was."""
    yield from _wrong_values(good)
    yield from _wrong_structure(good)
    yield from _wrong_model(good)
    yield from _wrong_template(good)
    yield from _wrong_json(good)


def _wrong_values(good: dict[str, Any]) -> Iterator[Case]:
    for field in SIZES:
        for value in NO_SIZES:
            yield _changed(good, field, value)
    for field in TEXTS:
        for wrong in (5, True, None, [], {}):
            yield _changed(good, field, wrong, word="" if field == "files.0.path" else None)
    for name in NAMES:
        yield _changed(good, "name", name)
    yield from _wrong_choices(good)
    yield from _wrong_self_test(good)


def _wrong_choices(good: dict[str, Any]) -> Iterator[Case]:
    for value in (-1, "0", True, None, RAW + "NaN", RAW + "1e400"):
        yield _changed(good, "generation.temperature", value)
    for value in (0, -1, 1.5, "1", None, RAW + "NaN", RAW + "1e400"):
        yield _changed(good, "generation.top_p", value)
    for value in (0, 2, -1, "1", 1.5, True, None, 2**63, [1]):
        yield _changed(good, "schema_version", value, word="schema" if isinstance(value, int) else "")
    for value in ("pytorch", "", "ONNX", "\u202eonnx", "tflite\n"):
        yield _changed(good, "target", value, word="")
    for target in sorted(set(runtime_names()) - {good["target"]}):
        yield _changed(good, "target", target, word=target)
    for value in ("nearest", "", 5, None):
        yield _changed(good, "preprocessing.method", value, word="method")
    yield _changed(good, "preprocessing.image_size", 2 * good["preprocessing"]["image_size"])


def _wrong_self_test(good: dict[str, Any]) -> Iterator[Case]:
    for value in ("00", "A" * 64, "g" * 64, 5, None, ""):
        yield _changed(good, "files.0.sha256", value, word="sha256")
        yield _changed(good, "selftest.pixels_sha256", value)
    vocabulary = good["model"]["vocab_size"]
    for value in ("1", 1, ["1"], [-1], [1.5], [2**31], [2**63], [RAW + "1e400"], [None], [vocabulary], {}, None):
        yield _changed(good, "selftest.token_ids", value)
    for field in ("ends", "decisive"):
        for value in ("yes", 1, []):
            yield _changed(good, f"selftest.{field}", value)


def _wrong_structure(good: dict[str, Any]) -> Iterator[Case]:
    for field in (
        "roles",
        "files",
        "model",
        "preprocessing",
        "quantisation",
        "chat_template",
        "generation",
        "selftest",
    ):
        for value in (None, 5, "x", [5], [[]], {"x": 5}):
            yield _changed(good, field, value, word="")
        yield _changed(good, field, _MISSING, word=field)
    for where in ("", "preprocessing", "quantisation", "generation", "selftest", "chat_template", "files.0",
                  "roles.decoder.0", "model.injection"):  # fmt: skip
        yield _changed(good, f"{where}.surprise".strip("."), 1, word="surprise")
    for role in ("vision_encoder", "vision_injector", "decoder"):
        yield _changed(good, f"roles.{role}", [], word=role)
        yield _changed(good, f"roles.{role}", _MISSING, word=role)
    yield _changed(good, "roles.extra", [], word="extra")
    yield _changed(good, "roles.extra", good["roles"]["decoder"], word="extra")
    for path in PATHS:
        record = {"path": path, "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
        yield _changed(good, "files", [*good["files"], record], name=f"a file {path[:40]!r}", word="")
        yield _changed(good, "selftest.image", path, word="")
    first = good["files"][0]
    other = {**first, "sha256": "0" * 64}
    yield _changed(good, "files", [*good["files"], other], name="one path with two hashes", word=first["path"])
    upper = {**first, "path": first["path"].upper()}
    yield _changed(good, "files", [*good["files"], upper], name="two paths that differ in case", word="")
    for gone in ("tokenizer.json", good["selftest"]["image"]):
        kept = [record for record in good["files"] if record["path"] != gone]
        yield _changed(good, "files", kept, name=f"{gone} is not listed", word=gone)
    huge = [{**first, "path": f"x{i}", "bytes": 2**62} for i in range(4)]
    yield _changed(good, "files", [*good["files"], *huge], name="sizes whose sum overflows", word="bytes")


def _wrong_model(good: dict[str, Any]) -> Iterator[Case]:
    layers = good["model"]["num_hidden_layers"]
    yield _changed(good, "model.architecture", "gpt")
    for value in ([], [3, 1], [0, 0], [layers], [-1], ["0"], [0.5], [2**63], "all", 5, {}):
        yield _changed(good, "model.injection.layers", value, word="layers")
    for value in ("some", 5, []):
        yield _changed(good, "model.injection.sharing", value, word="sharing")
    for value in (5, "x", [1]):
        yield _changed(good, "model.injection", value, word="injection")
    for levels in ([], [-1] * (layers + 1), "x", 5):
        changed = copy.deepcopy(good)
        changed["model"]["injection"] = {"layers": None, "sharing": "levels"}
        changed["model"]["vision_config"]["feature_layers"] = levels
        yield _case(f"feature_layers {levels}"[:60], _dumped(changed), "feature_layers")
    heads = copy.deepcopy(good)
    del heads["model"]["head_dim"]
    heads["model"]["num_attention_heads"] = 1 << 20
    yield _case("a head of no width", _dumped(heads), "head")
    large = copy.deepcopy(good)
    large["model"].update(head_dim=1 << 20, num_key_value_heads=1 << 20)
    large["context_capacity"] = 1 << 24
    yield "a cache of 2^66 bytes", _dumped(large), {"expect": "either", "words": []}


def _wrong_template(good: dict[str, Any]) -> Iterator[Case]:
    for role in ("user", "assistant", "system"):
        for value in (["a"], ["a", "b", "c"], "ab", [1, 2], [None, "b"], {}):
            yield _changed(good, f"chat_template.{role}", value, word=role)
    yield _changed(good, "chat_template.user", _MISSING, word="user")
    for value in ("<|im_end|>", [5], [None], {}, None, []):
        yield _changed(good, "chat_template.stop", value, word="stop")
    for value in (["<|no such token|>"], [""]):
        yield _changed(good, "chat_template.stop", value, word="chat_template")
    yield _changed(good, "chat_template.user", ["<" * 1_000_000, ""], word="user")
    yield _changed(good, "chat_template.user", ["\ud800", ""], word="")


def _wrong_json(good: dict[str, Any]) -> Iterator[Case]:
    text = _dumped(good)
    deep = b"[" * 10_000 + b"]" * 10_000
    for name, content in {
        "no JSON at all": b"no",
        "nothing": b"",
        "null": b"null",
        "a list": b"[]",
        "a text": b'"x"',
        "cut off": text[: len(text) // 2],
        "something behind the end": text + b"x",
        "not UTF-8": text.replace(b'"name": "', b'"name": "\xff\xfe'),
        "UTF-16": text.decode().encode("utf-16"),
        "one name twice": text.replace(b"{", b'{"schema_version": 1, ', 1),
        "one name twice, deeper": text.replace(b'"context_capacity"', b'"tools": {}, "context_capacity"', 1),
        "one name twice, spelled in two ways": text.replace(b"{", b'{"n\\u0061me": "x", ', 1),
        "nested 10,000 deep": text.replace(b'"provenance": {', b'"provenance": {"x": ' + deep + b", ", 1),
        "nested 10,000 deep from the start": deep,
        "half a surrogate pair in the name": text.replace(b'"name": "', b'"name": "\\ud800', 1),
        "a control character in a text": text.replace(b'"name": "', b'"name": "\x01', 1),
        "larger than 4 MiB": text + b" " * (5 << 20),
    }.items():
        yield _case(name, content, "")
    mark = b"\xef\xbb\xbf" + text
    yield "a byte order mark in front", mark, {"expect": "either", "words": []}
    digits = text.replace(b'"provenance": {', b'"provenance": {"x": 1' + b"0" * 1_000_000 + b", ", 1)
    yield "a number of a million digits", digits, {"expect": "either", "words": []}


_MISSING = object()


def _changed(good: dict[str, Any], field: str, value: Any, name: str = "", word: str | None = None) -> Case:
    changed = copy.deepcopy(good)
    *parents, last = field.split(".")
    at: Any = changed
    for step in parents:
        at = at[int(step) if isinstance(at, list) else step]
    if value is _MISSING:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    shown = "missing" if value is _MISSING else repr(value)[:40]
    if RAW in repr(value):
        word = ""  # no JSON in the first place
    return _case(name or f"{field}: {shown}", _dumped(changed), last if word is None else word)


def _case(name: str, content: bytes, word: str) -> Case:
    return name, content, {"expect": REFUSED, "words": [word]}


def _dumped(manifest: dict[str, Any]) -> bytes:
    text = json.dumps(manifest)
    for raw in ("1e400", "NaN", "-Infinity"):
        text = text.replace(f'"{RAW}{raw}"', raw)
    return text.encode()
