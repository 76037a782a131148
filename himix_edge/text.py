"""Text in and out: a Hugging Face tokenizer and a declarative chat template.

The template is data (a prefix and a suffix per role), not a program: the phone apps render it with string
concatenation, and a bundle's template can't execute anything. What a user types is never read as a special token.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from himix_edge.errors import InputError
from himix_edge.reading import first_problem, read_json

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.json"
MAX_TOKENIZER_BYTES = 64 << 20


@dataclass(frozen=True)
class ChatTemplate:
    """What stands around a message of each role, and which tokens end an answer."""

    user: tuple[str, str]
    assistant: tuple[str, str]
    stop: tuple[str, ...]
    bos: str = ""
    system: tuple[str, str] = ("", "")
    default_system: str = ""


@dataclass(frozen=True)
class Message:
    """One turn: role "system", "user" or "assistant", and what was said."""

    role: str
    content: str


class TextProcessor:
    """Tokenizer and chat template of one model."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate):
        self.tokenizer = tokenizer
        self.template = template
        tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        longest_first = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        self._special_pattern = re.compile(f"({longest_first})") if tokens else None
        self.stop_ids = frozenset(self._special_id(token) for token in template.stop)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tokenizer.encode_special_tokens = True  # the one setting that a tokenizer does not pickle

    @classmethod
    def load(cls, folder: Path) -> "TextProcessor":
        """Read tokenizer.json and chat_template.json. Raises InputError naming the file that is missing or wrong."""
        return cls(load_tokenizer(folder / TOKENIZER), read_template(folder / TEMPLATE))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and chat_template.json into `folder`."""
        self.tokenizer.save(str(folder / TOKENIZER))
        self.save_template(folder)

    def save_template(self, folder: Path) -> None:
        """Write chat_template.json alone."""
        (folder / TEMPLATE).write_text(json.dumps(dataclasses.asdict(self.template), indent=2) + "\n")

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, up to where the assistant's next answer starts.

        Raises:
            InputError: a user message is empty.
        """
        if self.template.default_system and (not messages or messages[0].role != "system"):
            messages = [Message("system", self.template.default_system), *messages]
        parts = [Part(self.template.bos, True)]
        for message in messages:
            parts += self._turn(message)
        return self._encode([*parts, Part(self.template.assistant[0], True)])

    def encode_next_turn(self, text: str) -> list[int]:
        """Token ids of a further user message behind a finished answer, up to where the next answer starts.

        The answer's stop token is the last that was generated and not yet in the cache, so it comes first.

        Raises:
            InputError: the message is empty.
        """
        finish = Part(self.template.assistant[1], True)
        return self._encode([finish, *self._turn(Message("user", text)), Part(self.template.assistant[0], True)])

    def encode_conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids of a finished conversation and, per token, whether the assistant has to produce it.

        Args:
            turns: (question, answer) pairs. The answer's tokens and the stop token behind it are targets.
        """
        ids: list[int] = []
        target: list[bool] = []
        for question, answer in turns:
            ask = self.encode_next_turn(question) if ids else self.encode_chat([Message("user", question)])
            reply = self._encode([Part(answer, False)])
            if ids:  # the next turn starts with the stop token that ended the last answer
                target[len(ids) :] = [True] + [False] * (len(ask) - 1)
            else:
                target = [False] * len(ask)
            ids += ask + reply
            target += [True] * len(reply)
        stop = self._encode([Part(self.template.assistant[1], True)])[:1]
        return ids + stop, [*target, True]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self) -> "TextStream":
        """An incremental decoder for one answer."""
        return TextStream(self.tokenizer)

    def _turn(self, message: Message) -> list["Part"]:
        content = message.content.strip()
        if message.role == "user" and not content:
            raise InputError("the prompt is empty; ask something about the image")
        prefix, suffix = getattr(self.template, message.role)
        return [Part(prefix, True), Part(content, False), Part(suffix, True)]

    def _encode(self, parts: Sequence["Part"]) -> list[int]:
        """Special tokens count only where the template writes them; a run of text between two of them is encoded in
        one go, so that the ids equal those of the rendered string."""
        ids: list[int] = []
        run = ""
        for part in parts:
            for text, special in self._split(part):
                if special:
                    ids += [*self._encode_plain(run), self._special_id(text)]
                    run = ""
                else:
                    run += text
        return ids + self._encode_plain(run)

    def _split(self, part: "Part") -> list[tuple[str, bool]]:
        if not part.template or not self._special_pattern:
            return [(part.text, False)]
        return [(text, bool(i % 2)) for i, text in enumerate(self._special_pattern.split(part.text)) if text]

    def _encode_plain(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids) if text else []

    def _special_id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise InputError(f"{TEMPLATE}: {token!r} is not a token of {TOKENIZER}")
        return int(number)


@dataclass(frozen=True)
class Part:
    """A piece of a rendered conversation: written by the template, or by a person."""

    text: str
    template: bool


class TextStream:
    """Turns token ids into printable text as they come; holds back bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        return self._stream.step(self._tokenizer, token) or ""


def read_template(path: Path) -> ChatTemplate:
    """Read a chat_template.json. Raises InputError naming the field that is wrong."""
    try:
        return TypeAdapter(ChatTemplate).validate_python(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json so that special tokens in plain text stay text. Raises InputError if it can't be read."""
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise InputError(f"{path}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB; this is not a tokenizer")
        tokenizer = Tokenizer.from_file(str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for every malformed file
        raise InputError(f"{path}: not a tokenizer.json ({error})") from None
    tokenizer.encode_special_tokens = True
    return tokenizer
