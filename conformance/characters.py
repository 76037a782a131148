"""Of which kind each character is for a pre-tokenizer, and which ones are white space at a prompt's ends."""

from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

MAPPED = [*range(0x33500), *range(0xE0000, 0xE0200)]  # where assigned characters are
JOINS = {"letter": "a", "number": "1", "other": "!"}  # what a character of the kind makes one word with
STRIPPED = [" \x1c a\u2003b \u3000\n", "\u200b", "\ufeff x", "", "\x85", " \t\x0b\x1f\u00a0x\u2029"]


def facts() -> dict[str, Any]:
    """The contents of characters.json."""
    return {"kinds": _kinds(), "stripped": [[text, text.strip()] for text in STRIPPED]}


def _kinds() -> list[list[Any]]:
    """[first character, kind] of each run of characters that the pattern's classes put together."""
    split = ByteLevel(add_prefix_space=False).pre_tokenize_str
    runs: list[list[Any]] = []
    for code in MAPPED:
        if 0xD800 <= code < 0xE000:
            continue
        kind = next((kind for kind, start in JOINS.items() if len(split(start + chr(code))) == 1), "space")
        if not runs or runs[-1][1] != kind:
            runs.append([code, kind])
    return runs
