"""Hostile and unusual tokenizer.json files: refused by name, or read without what could hurt."""

import base64
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from himix_edge.errors import InputError
from himix_edge.presets import SHIPPED
from himix_edge.text import Message, TextProcessor, load_tokenizer, read_template
from himix_edge.tokenizer_file import tokenizer_from_json

NANO = json.loads((SHIPPED / "nano" / "tokenizer.json").read_text())
TEMPLATE = read_template(SHIPPED / "nano" / "chat_template.json")
PADDING = {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
THRICE = {"type": "TemplateProcessing", "single": [A, A, A], "pair": [A, B], "special_tokens": {}}


def changed(**parts):
    return json.dumps({**NANO, **parts})


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(items, *steps):
    return {"type": "Sequence", items: list(steps)}


def split(pattern, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize("change", [
    {"padding": PADDING}, {"truncation": TRUNCATION}, {"post_processor": THRICE},
    {"model": {**NANO["model"], "dropout": 0.9}},
])  # fmt: skip
def test_what_no_text_needs_is_dropped(change):
    tokenizer = tokenizer_from_json(changed(**change), "x")
    said = "what color is the circle?"
    assert tokenizer.encode(said, add_special_tokens=False).ids == Tokenizer.from_str(changed()).encode(said).ids
    saved = json.loads(tokenizer.to_str())
    assert saved["padding"] is saved["truncation"] is saved["post_processor"] is saved["model"]["dropout"] is None


def test_a_post_processor_that_adds_bos_adds_none():
    tokenizer = Tokenizer.from_str(changed())
    tokenizer.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    text = TextProcessor(tokenizer_from_json(tokenizer.to_str(), "x"), TEMPLATE)
    assert text.tokenizer.token_to_id("<|endoftext|>") not in text.encode_chat([Message("user", "hi")])


@pytest.mark.parametrize(("change", "message"), [
    ({"normalizer": sequence("normalizers", *[replace("a", "a" * 60)] * 4)}, "characters of one"),
    ({"normalizer": replace("a", "a" * 1000)}, "at most 64 characters"),
    ({"normalizer": replace("", "x")}, "missing or empty"), ({"normalizer": replace("(a+)+", "", "Regex")}, "refused"),
    ({"normalizer": sequence("normalizers", *[{"type": "Prepend", "prepend": "ab"}] * 3)}, "characters of one"),
    ({"normalizer": sequence("normalizers", *[{"type": "NFC"}] * 99)}, "more than 64 steps"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "damaged"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": 3}}, "base64"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(
        (1024).to_bytes(4, "little") + bytes(1024) + b"a" * 9999).decode()}}, "too long"),
    ({"normalizer": {"type": "Fancy"}}, "'Fancy' is not supported"), ({"normalizer": "NFC"}, "with a type"),
    ({"normalizer": sequence("normalizers", 5)}, "normalizer.0"), ({"normalizer": {"type": "Sequence"}}, "without"),
    ({"pre_tokenizer": split("(a+)+$")}, "refused: it repeats a group"), ({"pre_tokenizer": split("")}, "empty"),
    ({"pre_tokenizer": split("", "String")}, "empty"), ({"pre_tokenizer": split("a*")}, "no character"),
    ({"pre_tokenizer": sequence("pretokenizers", *[NANO["pre_tokenizer"]] * 4)}, "characters of one"),
    ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "not supported"),
    ({"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 3}}, "stop = 3"),
    ({"decoder": {"type": "Strip", "content": " ", "start": 1 << 60, "stop": 0}}, "is not supported"),
    ({"decoder": replace("a", "b" * 99)}, "at most 64"),
    ({"model": {"type": "Mystery", "vocab": {}}}, "'Mystery' is not known"), ({"model": 1}, "no model"),
    ({"model": {**NANO["model"], "continuing_subword_prefix": "####"}}, "continuing_subword_prefix"),
    ({"model": {**NANO["model"], "unk_token": "<nope>"}}, "unknown token '<nope>'"),
    ({"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7}}, "unknown token '7'"),
    ({"model": {"type": "Unigram", "vocab": [["", -1.0]], "unk_id": 0}}, "without a token"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "u", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 9}}, "unknown token 'u'"),
    ({"model": {**NANO["model"], "vocab": []}}, "vocab"),
    ({"model": {**NANO["model"], "vocab": {"a": -1}}}, "not a tokenizer.json"),
    ({"model": {**NANO["model"], "merges": [["a", "zzz"]]}}, "not a tokenizer.json"),
    ({"added_tokens": {"a": 1}}, "not a list"),
    ({"added_tokens": [5]}, "not a tokenizer.json"), ({"version": "7"}, "not a tokenizer.json"),
])  # fmt: skip
def test_what_could_take_forever_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message) as caught:
        tokenizer_from_json(changed(**change), "odd.json")
    assert str(caught.value).startswith("odd.json: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "tokenizer.json"
    for content in (b"", b"[]", b"\xff\xfe", b"[" * 10_000, b"[" * (3 << 20), b'{"model": {"vocab": NaN}}'):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tokenizer\.json"):
            load_tokenizer(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        load_tokenizer(path)


def kinds():
    """What the families' files hold: Llama 2, Mistral, Gemma, Qwen, Llama 3, GPT-2, T5, BERT."""
    yield {"normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"))}
    yield {"normalizer": replace(" ", "▁"), "pre_tokenizer": split(" ", "String")}
    yield {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}
    yield {"normalizer": {"type": "NFC"}}
    yield {"normalizer": sequence("normalizers", {"type": "Nmt"}, {"type": "NFKC"}, replace(" {2,}", "▁", "Regex"))}
    yield {"decoder": sequence(
        "decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    )}  # fmt: skip
    yield {"model": {name: value for name, value in NANO["model"].items() if name != "type"} | {"unk_token": ""}}


@pytest.mark.parametrize("change", kinds())
def test_what_the_families_use_is_read(change):
    assert tokenizer_from_json(changed(**change), "x").get_vocab_size() == len(NANO["model"]["vocab"])


def test_sentencepieces_own_normalization_is_read(tmp_path):
    """The table of replacements that Google's library writes by default."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    (tmp_path / "corpus.txt").write_text("the quick brown fox\njumps over ﬁne résumés\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "m"), vocab_size=40, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((tmp_path / "m.model").read_bytes())
    table = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    read = tokenizer_from_json(changed(normalizer={"type": "Precompiled", "precompiled_charsmap": table}), "x")
    assert read.encode("ﬁne").ids == Tokenizer.from_str(changed()).encode("fine").ids


@settings(deadline=None)
@given(st.data())
def test_whatever_a_file_holds_ends_in_one_line(data):
    """Parts of a real file, put where they do not belong."""
    parts = [*NANO.values(), NANO["model"]["vocab"], 0, -1, 1 << 70, "", "x" * 99, [], {}, None, True, "\ud800",
             {"type": "BPE"}, [[]], {"type": "Replace"}, {"type": "Split", "pattern": 3}]  # fmt: skip
    place = data.draw(st.sampled_from([*NANO, *(f"model.{name}" for name in NANO["model"])]))
    value = data.draw(st.sampled_from(range(len(parts))))
    inner = place.removeprefix("model.")
    change = {"model": {**NANO["model"], inner: parts[value]}} if place != inner else {place: parts[value]}
    try:
        text = TextProcessor(tokenizer_from_json(changed(**change), "x"), TEMPLATE)
        text.decode(text.encode_chat([Message("user", "what is \u4e2d ▁ it?")]))
    except InputError as error:
        assert "\n" not in str(error)


def test_a_panic_of_the_library_is_one_line(text):
    """The words of a text are split off by the library itself, which aborts on what it did not expect."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "": 1}, []))
    tokenizer.normalizer = normalizers.Replace("", "x")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("a", "isolated")
    tokenizer.decoder = decoders.Strip(" ", 0, 3)
    from himix_edge.tokenizer_file import library_errors

    with pytest.raises(InputError, match=r"^here \(index out of bounds"), library_errors("here"):
        tokenizer.decode([1])
    with pytest.raises(KeyboardInterrupt), library_errors("here"):
        raise KeyboardInterrupt
