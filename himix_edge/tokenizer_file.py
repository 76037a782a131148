"""Reading a tokenizer.json that nobody vouches for.

The tokenizers library runs what such a file describes: it pads to the length that the file names, replaces letters by
megabytes, searches with any regular expression, and aborts where it meets what it did not expect. So only components
whose time and memory are bounded are handed to it, and what a text needs no more (padding, truncation, dropout,
post-processing) is dropped.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from himix_edge.errors import InputError
from himix_edge.patterns import check_pattern
from himix_edge.reading import parse_json, read_text

MAX_BYTES = 64 << 20
MAX_VALUES, MAX_CONTAINERS = 1 << 22, 1 << 21  # of the JSON; the largest vocabularies have a third of it
MAX_TOKENS = 1 << 20
MAX_ADDED = 1 << 16
MAX_STEPS = 64  # of a sequence of components
MAX_CONTENT = 64  # characters of what is put in or taken away
MAX_GROWTH = 8  # characters that a part makes of one
DROPPED = ("truncation", "padding", "post_processor")

Component = dict[str, Any]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json so that special tokens in plain text stay text.

    Raises:
        InputError: it can't be read, is no tokenizer, or describes what could take too much time or memory.
    """
    return tokenizer_from_json(read_text(path, MAX_BYTES), str(path))


def tokenizer_from_json(text: str, where: str) -> Tokenizer:
    """A tokenizer from the text of a tokenizer.json; errors as in `load_tokenizer`, which name `where`."""
    if text.count(",") > MAX_VALUES or text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise InputError(f"{where}: too many entries; this is not a tokenizer")
    raw = parse_json(text, where)
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise InputError(f"{where}: not a tokenizer.json (it has no model)")
    try:
        _check(raw)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{where}: {error}") from None
    dropout = raw["model"].get("dropout") is not None
    if dropout or any(raw.get(name) is not None for name in DROPPED):
        text = json.dumps({**raw, **dict.fromkeys(DROPPED), "model": {**raw["model"], "dropout": None}})
    with library_errors(f"{where}: not a tokenizer.json"):
        tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    return tokenizer


@contextmanager
def library_errors(message: str) -> Iterator[None]:
    """Makes an InputError of whatever the tokenizers library raises, its panics included."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # the library raises bare Exception, and for a panic a BaseException of a class that cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{message} ({' '.join(str(error).split())[:200]})") from None


def _check(raw: Component) -> None:
    """Raises ValueError for a component that is not known or not bounded."""
    added = raw.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED:
        raise ValueError(f"added_tokens: not a list of at most {MAX_ADDED}")
    _check_model(raw["model"])
    for part, items, known in (
        ("normalizer", "normalizers", NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", PRE_TOKENIZERS),
        ("decoder", "decoders", DECODERS),
    ):
        growth = math.prod(_checked(name, step, known) for name, step in _steps(raw.get(part), part, items))
        if growth > MAX_GROWTH:
            raise ValueError(f"{part}: makes up to {growth} characters of one; refused")


def _check_model(model: Component) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)  # GPT-2's first files name no type
    vocabulary = model.get("vocab")
    if kind not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        raise ValueError(f"model: type {kind!r} is not known")
    if not isinstance(vocabulary, list if kind == "Unigram" else dict) or len(vocabulary) > MAX_TOKENS:
        raise ValueError(f"model: vocab is not a vocabulary of at most {MAX_TOKENS} tokens")
    if kind == "BPE" and model.get("continuing_subword_prefix"):
        raise ValueError("model: continuing_subword_prefix is not supported")
    if kind == "Unigram" and not all(isinstance(entry, list) and entry and entry[0] for entry in vocabulary):
        raise ValueError("model: vocab has an entry without a token")
    unknown = model.get("unk_id" if kind == "Unigram" else "unk_token")
    if kind == "Unigram":
        known = type(unknown) is int and 0 <= unknown < len(vocabulary)
    else:  # "" stands for none in GPT-2's first files
        known = (kind == "BPE" and not unknown) or unknown in vocabulary
    if not known:
        raise ValueError(f"model: its unknown token {str(unknown)[:40]!r} is not in vocab")
    if len(model.get("end_of_word_suffix") or "") > MAX_CONTENT:
        raise ValueError("model: end_of_word_suffix is too long")


def _steps(component: Any, name: str, items: str) -> list[tuple[str, Component]]:
    """A component's steps in order, each with its place, for messages."""
    if component is None:
        return []
    if not isinstance(component, dict) or not isinstance(component.get("type"), str):
        raise ValueError(f"{name}: not a component with a type")
    if component["type"] != "Sequence":
        return [(name, component)]
    inner = component.get(items)
    if not isinstance(inner, list):
        raise ValueError(f"{name}: a Sequence without {items}")
    found = [pair for i, step in enumerate(inner) for pair in _steps(step, f"{name}.{i}", items)]
    if len(found) > MAX_STEPS:
        raise ValueError(f"{name}: more than {MAX_STEPS} steps")
    return found


def _checked(name: str, step: Component, known: dict[str, Callable[[Component], int]]) -> int:
    """How many characters a step makes of one, at most; 1 for what makes no text."""
    if step["type"] not in known:
        raise ValueError(f"{name}: type {step['type']!r} is not supported; known: {', '.join(known)}")
    try:
        return known[step["type"]](step)
    except ValueError as error:
        raise ValueError(f"{name}: {step['type']}: {error}") from None


def _plain(step: Component) -> int:
    return 1


def _split(step: Component) -> int:
    _pattern(step)
    return 1


def _replace(step: Component) -> int:
    """Of one character of a fixed text, or of any that a regular expression finds."""
    least, content = _pattern(step), _short(step, "content")
    return max(1, -(-len(content) // least))


def _pattern(step: Component) -> int:
    """Checks a step's pattern; the fewest characters that it matches."""
    pattern = step.get("pattern")
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else (None, None)
    if kind not in ("String", "Regex") or not isinstance(text, str) or not text:
        raise ValueError("its pattern is missing or empty")
    if kind == "String":
        return len(text)
    try:
        check_pattern(text)
    except ValueError as error:
        raise ValueError(f"the pattern {text[:60]!r} is refused: {error}") from None
    return 1


def _prepend(step: Component) -> int:
    """Of a section of one character."""
    return 1 + len(_short(step, "prepend"))


def _bytes(step: Component) -> int:
    """A character of four bytes becomes four."""
    return 4


def _strip(step: Component) -> int:
    """At the end the library aborts on a text that is shorter."""
    start, stop = step.get("start"), step.get("stop")
    if type(start) is not int or not 0 <= start <= MAX_CONTENT or stop != 0:
        raise ValueError(f"start = {start!r}, stop = {stop!r} is not supported")
    return 1


def _precompiled(step: Component) -> int:
    """SentencePiece's table of replacements: its texts end with a zero byte each, behind an index of known size."""
    try:
        table = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
    except (binascii.Error, TypeError):
        raise ValueError("precompiled_charsmap is not base64") from None
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or not 1024 <= size <= len(table) - 4:
        raise ValueError("precompiled_charsmap is damaged")
    if max(len(text) for text in table[4 + size :].split(b"\0")) > MAX_CONTENT:
        raise ValueError("precompiled_charsmap has a replacement that is too long")
    return 1


def _short(step: Component, name: str) -> str:
    text = step.get(name)
    if not isinstance(text, str) or len(text) > MAX_CONTENT:
        raise ValueError(f"{name} is not a text of at most {MAX_CONTENT} characters")
    return text


NORMALIZERS: dict[str, Callable[[Component], int]] = {
    **dict.fromkeys(
        ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Strip", "StripAccents", "BertNormalizer"),
        _plain,
    ),
    "ByteLevel": _bytes, "Replace": _replace, "Prepend": _prepend, "Precompiled": _precompiled,
}  # fmt: skip
PRE_TOKENIZERS: dict[str, Callable[[Component], int]] = {
    **dict.fromkeys(
        ("Metaspace", "Digits", "Whitespace", "WhitespaceSplit", "Punctuation", "BertPreTokenizer",
         "CharDelimiterSplit", "UnicodeScripts"),
        _plain,
    ),
    "ByteLevel": _bytes, "Split": _split,
}  # fmt: skip
DECODERS: dict[str, Callable[[Component], int]] = {
    **dict.fromkeys(("ByteLevel", "Metaspace", "ByteFallback", "Fuse", "WordPiece", "BPEDecoder", "CTC"), _plain),
    "Replace": _replace, "Strip": _strip,
}  # fmt: skip
