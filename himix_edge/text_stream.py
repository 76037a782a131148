"""Text of an answer as its tokens come, never half a character, and in all what the tokenizer makes of all tokens."""

import re

from tokenizers import Tokenizer

INCOMPLETE = "\ufffd"  # what bytes of an unfinished character decode to
BYTE = re.compile(r"<0x..>", re.DOTALL)


class TextStream:
    """Turns token ids into printable text as they come; holds back what the next token may still change.

    That are bytes of an unfinished character. A run of byte tokens (SentencePiece's `<0x0A>`) is held back to its end:
    it decodes as a whole, and one stray byte makes replacement characters of all.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # tokens of the last piece: what the next one joins
        self._shown_text = ""
        self._held: list[int] = []
        self._bytes = False  # whether the held ones end in a run of byte tokens

    def step(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._held.append(token)
        written = self._tokenizer.id_to_token(token)
        if written is not None and BYTE.fullmatch(written):
            self._bytes = True
        elif self._bytes and self._decode([token]):  # special tokens are left out: they end no run
            self._bytes = False
        if self._bytes:
            return ""
        text = self._decode(self._shown + self._held)
        if text.endswith(INCOMPLETE) or len(text) <= len(self._shown_text):
            return ""
        return self._show(text)

    def rest(self) -> str:
        """What was held back when the answer ended."""
        return self._show(self._decode(self._shown + self._held))

    def _show(self, text: str) -> str:
        piece = text[len(self._shown_text) :]
        self._shown, self._held = self._held or self._shown, []
        self._shown_text = self._decode(self._shown)
        return piece

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
