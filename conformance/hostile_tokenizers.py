"""tokenizer.json files that are valid JSON and mean harm, or that only look odd."""

import copy
import json
from collections.abc import Iterator
from typing import Any

Case = tuple[str, bytes, dict[str, Any]]
PAD = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
TOKEN = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def tokenizers(good: dict[str, Any], vocabulary: int) -> Iterator[Case]:
    """(name, tokenizer.json, {expect, words}).

    Args:
        good: a byte-level BPE.
        vocabulary: rows of the model's embedding.
    """
    yield from _ignored(good)
    yield from _vocabularies(good, vocabulary)
    yield from _merges(good)
    yield from _added_tokens(good, vocabulary)
    yield from _steps(good)
    text = json.dumps(good).encode()
    token = next(iter(good["model"]["vocab"]))
    twice = text.replace(b'"vocab": {', b'"vocab": {' + json.dumps(token).encode() + b": 5, ", 1)
    yield _case("one token twice", twice)
    yield _case("nested 10,000 deep", text.replace(b"{", b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b", ", 1))
    for name, content in {"no JSON": b"{", "nothing": b"", "a list": b"[]", "null": b"null", "no model": b"{}"}.items():
        yield _case(name, content)


def _ignored(good: dict[str, Any]) -> Iterator[Case]:
    yield _changed(good, "padding to 2^40", "same", padding={"strategy": {"Fixed": 2**40}, **PAD})
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    yield _changed(good, "truncation to 2", "same", truncation=cut)


def _vocabularies(good: dict[str, Any], vocabulary: int) -> Iterator[Case]:
    last = next(reversed(good["model"]["vocab"]))
    for number in (-1, vocabulary, 2**31, 2**53, 2**63, "1", 1.5, True, None, [], {}):
        entries = {**good["model"]["vocab"], last: number}
        yield _changed(good, f"a token's id is {number}", model={**good["model"], "vocab": entries})
    first = next(iter(good["model"]["vocab"].values()))
    yield _changed(good, "one id twice", model={**good["model"], "vocab": {**good["model"]["vocab"], last: first}})
    for vocab in (None, 5, [], "x", {}):
        yield _changed(good, f"vocab {vocab}", model={**good["model"], "vocab": vocab})
    yield _changed(good, "no vocab", model={key: value for key, value in good["model"].items() if key != "vocab"})


def _merges(good: dict[str, Any]) -> Iterator[Case]:
    for merges in ([["no such", "token"]], ["no such"], [["a"]], [["a", "b", "c"]], [5], [None], [[1, 2]], "x", 5, {}):
        model = {**good["model"], "merges": merges}
        yield _changed(good, f"merges {merges}", model=model)
    many = good["model"]["merges"] + good["model"]["merges"][:1] * 1_000_000
    yield _changed(good, "a million merges", "either", model={**good["model"], "merges": many})


def _added_tokens(good: dict[str, Any], vocabulary: int) -> Iterator[Case]:
    token = {**TOKEN, "id": 0, "content": "<x>"}
    used = good["added_tokens"][0]
    for change in (
        {"content": ""}, {"content": 5}, {"content": None}, {"id": -1}, {"id": "0"}, {"id": 1.5}, {"id": True},
        {"id": vocabulary}, {"id": 2**31}, {"id": 2**63}, {"special": "yes"}, {"special": None},
        {"content": used["content"], "id": used["id"] + 1},
    ):  # fmt: skip
        name = f"an added token with {json.dumps(change)}"
        yield _changed(good, name, added_tokens=[*good["added_tokens"], {**token, **change}])
    for value in (5, "x", {}, [5], [[]]):
        yield _changed(good, f"added_tokens {value}", added_tokens=value)
    plain = {**token, "content": "circle", "special": False, "id": good["model"]["vocab"]["a"]}
    yield _changed(good, "an added token that is not special", "either", added_tokens=[*good["added_tokens"], plain])


def _steps(good: dict[str, Any]) -> Iterator[Case]:
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    for pattern in ({"Regex": "(a+)+$"}, {"Regex": "(a|a)*b|(a*)*c"}, {"Regex": "("}, {"String": ""}, {}, None, 5):
        yield _changed(good, f"Split by {pattern}", pre_tokenizer={**split, "pattern": pattern})
    for step in ({"type": "Nope"}, {"type": 5}, {}, 5, "x", [], {"type": "Sequence", "pretokenizers": 5}):
        yield _changed(good, f"pre_tokenizer {step}", pre_tokenizer=step)
    many = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 100_000}
    yield _changed(good, "100,000 pre_tokenizers", pre_tokenizer=many)
    first = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    yield _changed(good, "Metaspace before bytes", "either", pre_tokenizer=first)
    yield _changed(good, "no pre_tokenizer", "either", pre_tokenizer=None)
    for step in ({"type": "Nope"}, {"type": 5}, {}, 5, {"type": "Sequence", "normalizers": [GROWING] * 4}, GROWING,
                 {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
                 {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}):  # fmt: skip
        yield _changed(good, f"normalizer {str(step)[:60]}", normalizer=step)
    for step in ({"type": "Nope"}, {"type": 5}, {}, 5):
        yield _changed(good, f"decoder {step}", decoder=step)
    for model in ({"type": "Nope"}, {"type": 5}, {"type": "WordPiece"}):
        yield _changed(good, f"model {model}", model={**good["model"], **model})
    yield _changed(good, "byte_fallback", "either", model={**good["model"], "byte_fallback": True})
    yield _changed(good, "an unknown token", "either", model={**good["model"], "unk_token": "no such"})
    yield _changed(good, "dropout", "either", model={**good["model"], "dropout": 0.5})


def _changed(good: dict[str, Any], name: str, expect: str = "refused", **fields: Any) -> Case:
    changed = {**copy.deepcopy(good), **fields}
    return name[:90], json.dumps(changed).encode(), {"expect": expect, "words": ["tokenizer.json"]}


def _case(name: str, content: bytes) -> Case:
    return name, content, {"expect": "refused", "words": ["tokenizer.json"]}
