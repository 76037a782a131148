"""Regular expressions of tokenizers: the published ones may run, those that backtrack without end may not."""

import pytest

from himix_edge.checkpoints.tokenizers import PATTERNS
from himix_edge.patterns import check_pattern

# ruff: noqa: E501, RUF001
PUBLISHED = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    **PATTERNS,
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-v3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-llm": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "falcon": "[0-9][0-9][0-9]",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "classes with intersections": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+(?i:'s|'t)?",
    "digits in threes": r"\d{1,3}(?=(?:\d{3})*\b)",
    "spaces": " {2,}",
    "clip": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_may_run(name):
    check_pattern(PUBLISHED[name])


@pytest.mark.parametrize(("pattern", "message"), [
    ("(a+)+$", "repeats a group"), ("(a|a)+$", "repeats a group"), ("(a|aa){30}$", "repeats a group"),
    ("(?:a?){20}a", "repeats a group"), ("a*a*b", "over and over"), ("a+b+c", "over and over"),
    ("(a+b+|d)c", "over and over"), ("a{1,3}+b", "over and over"), ("a**b", "over and over"),
    ("a{0,64}" * 6 + "b", "over and over"), ("a?" * 30 + "a" * 30, "over and over"),
    ("(?:a|a)" * 30 + "b", "over and over"), ("a{64}{64}", "repeats a repeat"), ("a{1000}", "more than 64 times"),
    ("a*", "no character"), ("", "no character"), ("x|", "no character"), ("^", "no character"), ("(?i)", "no character"),
    ("(?R)", "not supported"), (r"(a)\1", "not supported"), (r"\g<0>", "not supported"), ("(?~a)", "not supported"),
    (r"\K", "not supported"), ("(?x) a", "not supported"), ("(?=a*)b", "looks around"), ("[a", "not closed"),
    ("(a", "not closed"), ("a)", "unexpected"), ("*a", "nothing stands before"), ("(" * 50, "too deep"),
    ("a" * 9000, "longer"), ("(" + "|".join("a" * 99) + ")b", "alternatives"), ("\\", "not supported"),
    ("a{" + "9" * 5000 + "}", "digits"),
])  # fmt: skip
def test_others_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern)
