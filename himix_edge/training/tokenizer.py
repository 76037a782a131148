"""Train a small byte-level BPE tokenizer, and the chat template that goes with it."""

from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from himix_edge.text import ChatTemplate, TextProcessor

CHATML = ChatTemplate(
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    stop=("<|im_end|>",),
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> TextProcessor:
    """A byte-level BPE over `texts` with ChatML's special tokens; every byte string can be encoded.

    Args:
        texts: the training corpus.
        vocab_size: upper limit; fewer merges are made if the corpus has no more pairs.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = ["user\n", "assistant\n", "system\n"] * 100  # the template's own words, often enough to become tokens
    tokenizer.train_from_iterator(chain(texts, roles), trainer)
    tokenizer.encode_special_tokens = True
    return TextProcessor(tokenizer, CHATML)
