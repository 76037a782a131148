"""Tokenizers of checkpoints that have no tokenizer.json: from GGUF metadata, or from SentencePiece and BPE files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from himix_edge import extras
from himix_edge.errors import InputError
from himix_edge.reading import MAX_CONFIG_BYTES, read_bytes, read_json
from himix_edge.text import TOKENIZER, load_tokenizer
from himix_edge.tokenizer_file import MAX_BYTES, MAX_TOKENS, library_errors, tokenizer_from_json

T = TypeVar("T")
# the families' published pre-tokenizer patterns
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "qwen2": _CONTRACTIONS + _WORDS.replace("{DIGITS}", r"\p{N}"),
    "llama-bpe": _CONTRACTIONS + _WORDS.replace("{DIGITS}", r"\p{N}{1,3}"),
}
BYTE_LEVEL = ("smollm", "gpt-2", "default", *PATTERNS)
MAX_TOKEN = 1024  # characters; from longer ones no merges are derived in reasonable time
CLASSES = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer")
TOKENIZER_SOURCES = (TOKENIZER, "tokenizer.model", "vocab.json")  # any of them makes a tokenizer
SETTINGS_BYTES = 16 * MAX_CONFIG_BYTES
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token_type of a GGUF vocabulary


def gguf_tokenizer(metadata: Mapping[str, object], where: str) -> Tokenizer:
    """A Hugging Face tokenizer from `tokenizer.ggml.*`.

    Args:
        metadata: a GGUF file's.
        where: the file, for messages.

    Raises:
        InputError: no vocabulary, or a kind of tokenizer or pre-tokenizer that is not known (named).
    """
    tokens, types = _list(metadata, "tokens", str, where), metadata.get("tokenizer.ggml.token_type")
    if len(tokens) > MAX_TOKENS or max(len(token) for token in tokens) > MAX_TOKEN:
        raise InputError(f"{where}: tokenizer.ggml.tokens: more than {MAX_TOKENS}, or one of over {MAX_TOKEN} letters")
    if not isinstance(types, list) or len(types) != len(tokens):
        types = [NORMAL] * len(tokens)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, metadata, where)
    elif kind == "llama":
        tokenizer = _sentencepiece(tokens, types, metadata, where)
    else:
        raise InputError(f"{where}: tokenizer.ggml.model {kind!r} is not supported; gpt2 and llama are")
    special = [
        AddedToken(token, special=sort in (CONTROL, UNKNOWN), normalized=False)
        for token, sort in zip(tokens, types, strict=True)
        if sort in (CONTROL, USER_DEFINED) or (sort == UNKNOWN and kind == "llama")
    ]
    with library_errors(f"{where}: tokenizer.ggml"):
        tokenizer.add_tokens(special)
    tokenizer.encode_special_tokens = True
    return tokenizer


def folder_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, or what transformers makes of tokenizer.model.

    Raises:
        InputError: there is none, or it is damaged.
        BackendMissing: a conversion is needed and transformers is not installed.
    """
    if (folder / TOKENIZER).is_file():
        return load_tokenizer(folder / TOKENIZER)
    files = [folder / name for name in ("tokenizer.model", "vocab.json", "merges.txt") if (folder / name).exists()]
    if not files or files == [folder / "merges.txt"]:
        raise InputError(f"{folder}: no tokenizer.json, tokenizer.model or vocab.json")
    for path in files:
        read_bytes(path, MAX_BYTES)
    settings = folder / "tokenizer_config.json"
    raw = read_json(settings, SETTINGS_BYTES) if settings.exists() else {}
    kind = raw.get("tokenizer_class") if isinstance(raw, dict) else raw
    if kind is not None and str(kind).removesuffix("Fast") not in CLASSES:
        raise InputError(
            f"{settings}: tokenizer_class {str(kind)[:60]!r} is not supported; known: {', '.join(CLASSES)}"
        )
    with extras.needed("transformers", extras.CONVERT):
        from transformers import AutoTokenizer
    with library_errors(f"{folder}: transformers cannot read this tokenizer"):  # it raises many kinds
        fast = AutoTokenizer.from_pretrained(str(folder), use_fast=True, local_files_only=True, trust_remote_code=False)
        described = fast.backend_tokenizer.to_str()
    return tokenizer_from_json(described, str(folder))


def _byte_level(tokens: list[str], metadata: Mapping[str, object], where: str) -> Tokenizer:
    """Byte-level BPE (GPT-2, Qwen2, Llama 3, SmolLM)."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in BYTE_LEVEL:
        raise InputError(f"{where}: tokenizer.ggml.pre {name!r} is not supported; known: {', '.join(BYTE_LEVEL)}")
    merges = []
    for merge in _list(metadata, "merges", str, where):
        left, space, right = merge.partition(" ")
        if not space:
            raise InputError(f"{where}: tokenizer.ggml.merges: {merge!r} is not a pair")
        merges.append((left, right))
    with library_errors(f"{where}: tokenizer.ggml"):
        # Llama 3 takes a whole word that is in the vocabulary before it looks at the merges
        model = BPE({t: i for i, t in enumerate(tokens)}, merges, fuse_unk=False, ignore_merges=name == "llama-bpe")
    tokenizer = Tokenizer(model)
    if name in PATTERNS:
        tokenizer.normalizer = normalizers.NFC() if name == "qwen2" else None
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated", invert=False)
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    elif name == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(tokens: list[str], types: list[int], metadata: Mapping[str, object], where: str) -> Tokenizer:
    """SentencePiece BPE (Llama 2, TinyLlama, Vicuna): merges follow from the scores, as transformers derives them."""
    scores = _list(metadata, "scores", float, where)
    if len(scores) != len(tokens):
        raise InputError(f"{where}: tokenizer.ggml.scores and tokens differ in length")
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score, sort in zip(tokens, scores, types, strict=True):
        if sort != NORMAL or len(token) < 2:
            continue
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(score, pair) for pair in pairs]
    merges.sort(key=lambda item: item[0], reverse=True)
    unknown = next((token for token, sort in zip(tokens, types, strict=True) if sort == UNKNOWN), None)
    with library_errors(f"{where}: tokenizer.ggml"):
        model = BPE(ids, [pair for _, pair in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _list(metadata: Mapping[str, object], name: str, kind: type[T], where: str) -> list[T]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values or not isinstance(values[0], kind):
        raise InputError(f"{where}: tokenizer.ggml.{name} is missing")
    if not all(isinstance(value, kind) for value in values):
        raise InputError(f"{where}: tokenizer.ggml.{name} holds something else than {kind.__name__}")
    return values
