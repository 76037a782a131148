"""Text in and out: a Hugging Face tokenizer and a declarative chat template.

The template is data (a prefix and a suffix per role), not a program: the phone apps render it with string
concatenation, and a bundle's template can't execute anything. What a user types is never read as a special token.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, model_serializer
from tokenizers import AddedToken, Tokenizer

from himix_edge.errors import InputError
from himix_edge.image_text import ImageText, Slots
from himix_edge.reading import read_json, validated
from himix_edge.text_stream import TextStream
from himix_edge.tokenizer_file import library_errors, load_tokenizer

__all__ = [
    "TEMPLATE",
    "TOKENIZER",
    "ChatTemplate",
    "Message",
    "TextProcessor",
    "as_text",
    "load_tokenizer",
    "read_template",
]

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.json"
MAX_TEXT = 1 << 20  # bytes of a piece that is encoded; the longest contexts take half of it
ANSWER = "."  # stands for a finished answer where only what comes behind one is encoded


@dataclass(frozen=True)
class ChatTemplate:
    """What stands around a message of each role, and which tokens end an answer.

    `system` is None where the model knows no system messages; `said` is white space that stands before an answer in a
    history, while a model that answers says it itself. `image` is what a message with pictures holds for them, where
    they are part of the text.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    stop: Annotated[tuple[str, ...], Field(min_length=1)]
    bos: str = ""
    system: tuple[str, str] | None = None
    default_system: str = ""
    said: str = ""
    image: ImageText | None = None
    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if self.default_system and self.system is None:
            raise ValueError("default_system stands in a template without system messages")

    @model_serializer
    def stored(self) -> dict[str, object]:
        """The content of chat_template.json; without `image` where there is none, as earlier readers know it."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name != "image" or value is not None}

    def render(self, messages: Sequence["Message"]) -> list["Part"]:
        """A conversation, up to where the assistant's next answer starts.

        Raises:
            InputError: a user message is empty, there is a system message and the model knows none, or a message is
                no text.
        """
        if self.default_system and (not messages or messages[0].role != "system"):
            messages = [Message("system", self.default_system), *messages]
        turns = [part for message in messages for part in self.turn(message)]
        return [Part(self.bos, True), *turns, Part(self.assistant[0], True)]

    def turn(self, message: "Message") -> list["Part"]:
        """One message with what stands around it; errors as in `render`."""
        content = as_text(message.content, "the prompt" if message.role == "user" else f"the {message.role} message")
        content = content.strip()
        if message.role == "user" and not content:
            raise InputError("the prompt is empty; ask something about the image")
        around = {"user": self.user, "assistant": self.assistant, "system": self.system}.get(message.role)
        if around is None:
            raise InputError(f"this model's chat template has no {message.role} messages")
        said = self.said if message.role == "assistant" else ""
        return [Part(around[0] + said, True), Part(content, False), Part(around[1], True)]


@dataclass(frozen=True)
class Message:
    """One turn: role "system", "user" or "assistant", and what was said."""

    role: str
    content: str


class TextProcessor:
    """Tokenizer and chat template of one model."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, where: str = "the chat template"):
        """Raises InputError, naming `where`, for a token of the template that is not one of the tokenizer's."""
        self.tokenizer = tokenizer
        self._where = where
        added = tokenizer.get_added_tokens_decoder().values()
        self.template = _without_swallowed(template, added)
        texts = _texts(template)
        tokens = [token.content for token in added if token.special and any(token.content in text for text in texts)]
        if template.image is not None and template.image.slot not in tokens:
            raise InputError(f"{where}: {template.image.slot!r:.40} is not a special token of {TOKENIZER}")
        longest_first = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        self._special_pattern = re.compile(f"({longest_first})") if tokens else None
        self.stop_ids = frozenset(self._special_id(token) for token in template.stop)
        self._later = later_tokenizer(tokenizer)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        # the one setting that a tokenizer does not pickle
        self.tokenizer.encode_special_tokens = self._later.encode_special_tokens = True

    @classmethod
    def load(cls, folder: Path) -> "TextProcessor":
        """Read tokenizer.json and chat_template.json. Raises InputError naming the file that is missing or wrong."""
        return cls(load_tokenizer(folder / TOKENIZER), read_template(folder / TEMPLATE), str(folder / TEMPLATE))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and chat_template.json into `folder`."""
        self.tokenizer.save(str(folder / TOKENIZER))
        self.save_template(folder)

    def save_template(self, folder: Path) -> None:
        """Write chat_template.json alone."""
        (folder / TEMPLATE).write_text(json.dumps(self.template.stored(), indent=2) + "\n")

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, up to where the assistant's next answer starts.

        Raises:
            InputError: as in `ChatTemplate.render`; also a text that is too long.
        """
        return self._encode(self.template.render(messages))

    def encode_pictures(self, pictures: Sequence[Slots], system: str = "") -> list[int]:
        """Token ids from the start of a conversation to the end of the pictures of its first message.

        Args:
            pictures: each one's place, see `picture_tokens.slots`.
            system: the system message; "": none, or the template's own.

        Raises:
            InputError: as in `ChatTemplate.render`; also a model whose text holds no pictures.
        """
        template, images = self.template, self._images()
        said = system or template.default_system
        ahead = template.turn(Message("system", said)) if said else []
        return self._encode([Part(template.bos, True), *ahead, Part(images.pictures(pictures), True)])

    def encode_behind_pictures(self, text: str, later: Sequence[Message] = ()) -> list[int]:
        """Token ids of what follows `encode_pictures`: the words of its message and what was said since, up to where
        the next answer starts.

        Raises:
            InputError: as in `encode_chat`.
        """
        _, content, end = self.template.turn(Message("user", text))
        after, turns = Part(self._images().after, True), [part for each in later for part in self.template.turn(each)]
        return self._encode([after, content, end, *turns, Part(self.template.assistant[0], True)], before="")

    def _images(self) -> ImageText:
        if self.template.image is None:
            raise InputError("this model's text holds no pictures")
        return self.template.image

    def encode_next_turn(self, text: str) -> list[int]:
        """Token ids of a further user message behind a finished answer, up to where the next answer starts.

        The answer's stop token is the last that was generated and not yet in the cache, so it comes first.

        Raises:
            InputError: as in `encode_chat`.
        """
        template = self.template
        finish = Part(template.assistant[1], True)
        turn = template.turn(Message("user", text))
        return self._encode([finish, *turn, Part(template.assistant[0], True)], before=ANSWER)

    def encode_conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids of a finished conversation and, per token, whether the assistant has to produce it.

        Args:
            turns: (question, answer) pairs. The answer's tokens and the stop token behind it are targets.

        Raises:
            InputError: as in `encode_chat`; also a template that writes no stop token behind an answer.
        """
        finish = self._finish()
        ids: list[int] = []
        target: list[bool] = []
        for question, answer in turns:
            ask = self.encode_next_turn(question) if ids else self.encode_chat([Message("user", question)])
            reply = self._reply(answer)
            ended = len(finish) if ids else 0  # the next turn starts with the stop token that ended the last answer
            target += [True] * ended + [False] * (len(ask) - ended) + [True] * len(reply)
            ids += ask + reply
        return ids + finish, target + [True] * len(finish)

    def encode_conversation_behind_pictures(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """`encode_conversation` of what follows `encode_pictures`; arguments and errors as there."""
        ids, target = self.encode_conversation(turns)
        asked = len(self.encode_chat([Message("user", turns[0][0])]))
        behind = self.encode_behind_pictures(turns[0][0])
        return behind + ids[asked:], [False] * len(behind) + target[asked:]

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer and of what ends it, as the model has to say them. Raises as `encode_conversation`."""
        return self._reply(answer) + self._finish()

    def _reply(self, answer: str) -> list[int]:
        start = self._text_at_end(self.template.assistant[0])
        return self._encode([Part(self.template.said + as_text(answer, "the answer"), False)], before=start)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self) -> TextStream:
        """An incremental decoder for one answer."""
        return TextStream(self.tokenizer)

    def check_ids(self, where: str) -> None:
        """Raises InputError, naming `where`, if the ids of a conversation are not those of its rendered text."""
        system = [Message("system", "Say \u00e9 in  two\n lines.")] if self.template.system else []
        said = [
            Message("user", "What is \u4e2d?"),
            Message("assistant", "A red\n\n circle."),
            Message("user", "<b> Why"),
        ]
        for messages in (said[:1], [*system, *said]):
            parts = self.template.render(messages)
            self.tokenizer.encode_special_tokens = False
            try:
                expected = self.encode_text("".join(part.text for part in parts))
            finally:
                self.tokenizer.encode_special_tokens = True
            if self._encode(parts) != expected:
                raise InputError(f"{where}: its tokenizer reads special tokens in a way that is not supported")

    def check_slot(self, slot_id: int) -> None:
        """Raises InputError if the token that stands for pictures in the text is not the one with this id."""
        slot = self._images().slot
        if self.tokenizer.token_to_id(slot) != slot_id:
            raise InputError(
                f"{self._where}: image.slot {slot!r:.40} is not token {slot_id}, which stands for a picture's tokens"
            )

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text. Raises InputError if it is too long or no Unicode text."""
        return _ids(self.tokenizer, text)

    def _finish(self) -> list[int]:
        """What the model has to say at the end of an answer: up to the first stop token of what the template writes."""
        ids = self._encode([Part(self.template.assistant[1] + self.template.user[0], True)], before=ANSWER)
        ends = [i for i, token in enumerate(ids) if token in self.stop_ids]
        if not ends:
            raise InputError("the chat template writes no stop token behind an answer; training needs one")
        return ids[: ends[0] + 1]

    def _text_at_end(self, text: str) -> str:
        """What stands behind the last special token."""
        pieces = self._split(Part(text, True))
        return pieces[-1][0] if pieces and not pieces[-1][1] else ""

    def _encode(self, parts: Sequence["Part"], before: str | None = None) -> list[int]:
        """Special tokens count only where the template writes them; a run of text between two of them is encoded in
        one go, so that the ids equal those of the rendered string.

        Args:
            parts: what to encode.
            before: text right before it, which is encoded already; None: nothing is.
        """
        ids: list[int] = []
        run = ""
        for part in parts:
            for text, special in self._split(part):
                if special:
                    ids += [*self._encode_run(run, before), self._special_id(text)]
                    run, before = "", ""
                else:
                    run += text
        return ids + self._encode_run(run, before)

    def _encode_run(self, run: str, before: str | None) -> list[int]:
        if not run or before is None:
            return _ids(self.tokenizer, run)
        if not before:
            return _ids(self._later, run)
        head, whole = _ids(self._later, before), _ids(self._later, before + run)
        return whole[len(head) :] if whole[: len(head)] == head else _ids(self._later, run)

    def _split(self, part: "Part") -> list[tuple[str, bool]]:
        if not part.template or not self._special_pattern:
            return [(part.text, False)]
        return [(text, bool(i % 2)) for i, text in enumerate(self._special_pattern.split(part.text)) if text]

    def _special_id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise InputError(f"{self._where}: {token[:40]!r} is not a token of {TOKENIZER}")
        return int(number)


@dataclass(frozen=True)
class Part:
    """A piece of a rendered conversation: written by the template, or by a person."""

    text: str
    template: bool


def as_text(text: object, what: str) -> str:
    """`text` if it is Unicode text. Raises InputError, naming `what`, otherwise."""
    if not isinstance(text, str):
        raise InputError(f"{what} has to be text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not Unicode text: half a character at position {error.start}") from None
    return text


def read_template(path: Path) -> ChatTemplate:
    """Read a chat_template.json. Raises InputError naming the field that is wrong."""
    return validated(ChatTemplate, read_json(path), str(path))


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    if text == "":
        return []
    if len(as_text(text, "the text").encode()) > MAX_TEXT:
        raise InputError(f"the text is longer than {MAX_TEXT >> 20} MiB; no model takes that much")
    with library_errors("the tokenizer cannot encode the text"):
        return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _texts(template: ChatTemplate) -> list[str]:
    images = template.image.examples() if template.image else []
    return [template.bos, *template.user, *template.assistant, *(template.system or ()), *images]


def _without_swallowed(template: ChatTemplate, added: Iterable[AddedToken]) -> ChatTemplate:
    """The template without white space that a special token takes in (Phi-3's do), which has no ids of its own."""
    swallows = [
        (r"\s*" * token.lstrip + f"({re.escape(token.content)})" + r"\s*" * token.rstrip)
        for token in added
        if token.special and (token.lstrip or token.rstrip)
    ]

    def put(text: str) -> str:
        for pattern in swallows:
            text = re.sub(pattern, r"\1", text)
        return text

    if not swallows:
        return template

    def around(pair: tuple[str, str]) -> tuple[str, str]:
        return put(pair[0]), put(pair[1])

    prefix = template.assistant[0]
    said = put(prefix + template.said)[len(put(prefix)) :]
    return dataclasses.replace(
        template, bos=put(template.bos), said=said, user=around(template.user), assistant=around(template.assistant),
        system=None if template.system is None else around(template.system),
    )  # fmt: skip


def later_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for text that does not stand first: one that puts a space before the first text alone does not."""
    splitter = tokenizer.pre_tokenizer
    described = json.loads(splitter.__getstate__()) if splitter is not None else None
    steps = described.get("pretokenizers", [described]) if described else []
    first = [step for step in steps if step.get("prepend_scheme") == "first"]
    if not first:
        return tokenizer
    for step in first:
        step["prepend_scheme"] = "never"
    later = Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "pre_tokenizer": described}))
    later.encode_special_tokens = True
    return later
