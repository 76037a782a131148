"""Answers that parse: which tokens may come next, by a JSON Schema, a regular expression or a list of choices.

The rules are llguidance's. They are a mask on logits, so they hold in every runtime alike.
"""

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from himix_edge import extras
from himix_edge.errors import InputError, one_line
from himix_edge.reading import parse_json, refuse_deep
from himix_edge.runtimes.engine import Floats
from himix_edge.text import TextProcessor, as_text

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_BYTES = 1 << 18  # of a schema or an expression
MOST_CHOICES = 4096
NEVER = np.float32(-np.inf)
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
PLACES = re.compile(r"^\s*(\d+ \||\^)")  # of an error in the grammar that a structure becomes

_lock = threading.Lock()
_tokenizers: "WeakKeyDictionary[TextProcessor, dict[int, LLTokenizer]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Structure:
    """What an answer has to be; see `json_schema`, `regex` and `choices`. `rule` is a rule of llguidance's grammars."""

    rule: str

    @classmethod
    def json_schema(cls, schema: object) -> "Structure":
        """A JSON document that a JSON Schema (a dict, or its text) allows, in one line: `{"a": 1, "b": [2, 3]}`.

        A model that may put white space anywhere can go on with it for ever.

        Raises:
            InputError: it is no schema, or larger than 256 KiB. What of JSON Schema is not supported is refused, by
                name, when an answer is asked for.
        """
        if isinstance(schema, str):
            schema = parse_json(_bounded(schema, "the JSON Schema"), "the JSON Schema")
        if not isinstance(schema, dict):
            raise InputError("a JSON Schema is an object")
        refuse_deep(schema, "the JSON Schema")
        try:
            text = json.dumps({**schema, "x-guidance": ONE_LINE}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"the JSON Schema is not JSON: {error}") from None
        return cls(f"%json {_bounded(text, 'the JSON Schema')}")

    @classmethod
    def json_object(cls) -> "Structure":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> "Structure":
        """A text that a regular expression matches as a whole (Rust's syntax; no looking around, no backreferences).

        Raises:
            InputError: it is empty or no text. What else is wrong with it is said when an answer is asked for.
        """
        pattern = _bounded(pattern, "the regular expression")
        if not pattern:
            raise InputError("the regular expression is empty; no answer matches it")
        return cls("/" + re.sub(r"\\.|/|\n", _for_a_rule, pattern, flags=re.DOTALL) + "/")

    @classmethod
    def choices(cls, texts: Sequence[str]) -> "Structure":
        """One of several texts. Raises InputError for none, an empty one, and what is no text."""
        given = [texts] if isinstance(texts, str) else list(texts)
        if not 1 <= len(given) <= MOST_CHOICES:
            raise InputError(f"{len(given)} choices; give 1 to {MOST_CHOICES}")
        if any(not as_text(text, "a choice") for text in given):
            raise InputError("a choice is empty; give what the answer may be")
        return cls(_bounded(" | ".join(json.dumps(text, ensure_ascii=False) for text in given), "the choices"))

    def matcher(self, text: TextProcessor, vocabulary: int) -> "Matcher":
        """What follows one answer. Raises InputError for what llguidance refuses, BackendMissing without it."""
        return Matcher(self, text, vocabulary)


class Matcher:
    """Follows one answer, token by token."""

    def __init__(self, structure: Structure, text: TextProcessor, vocabulary: int):
        with extras.needed("llguidance", extras.STRUCTURE):
            from llguidance import LLMatcher
            from llguidance.numpy import allocate_token_bitmask

        said = text.template.said
        start = f"start: /({_escaped(said)})?/ answer\n" if said else "start: answer\n"
        grammar = LLMatcher.grammar_from_lark(f"{start}answer: {structure.rule}\n")
        self._matcher = LLMatcher(_tokenizer(text, vocabulary), grammar, log_level=0)
        self._raise_error("this structure of an answer is not supported")
        self._stops = sorted(text.stop_ids) if len(text.stop_ids) > 1 else []  # llguidance knows one of them
        self._bits = allocate_token_bitmask(1, vocabulary)
        self._bytes, self._place = self._bits.view(np.uint8)[0], (self._bits.ctypes.data, self._bits.nbytes)

    def allowed(self, logits: Floats) -> Floats:
        """Logits (V,) with minus infinity for what may not come next."""
        self._matcher.unsafe_compute_mask_ptr(*self._place)  # of `_bits`, which is as large as it says
        may = np.unpackbits(self._bytes, count=len(logits), bitorder="little").view(np.bool_)
        if self._stops:
            may[self._stops] = may[self._stops].any()
        return np.where(may, logits, NEVER)

    def take(self, token: int) -> bool:
        """Go on behind a token; whether the answer is complete and nothing can follow."""
        if not self._matcher.consume_token(token):
            self._raise_error("the answer's structure cannot be followed")
        return bool(self._matcher.is_stopped())

    def _raise_error(self, what: str) -> None:
        if self._matcher.is_error():
            said = [line.strip() for line in self._matcher.get_error().splitlines() if not PLACES.match(line)]
            raise InputError(f"{what}: {one_line(re.sub(r'^at [0-9]+[(][0-9]+[)]: ', '', ' '.join(said)))[:500]}")


def _tokenizer(text: TextProcessor, vocabulary: int) -> "LLTokenizer":
    """The tokenizer in llguidance's form, made once for each."""
    from llguidance import LLTokenizer

    with _lock:
        made = _tokenizers.setdefault(text, {})
        if vocabulary not in made:
            made[vocabulary] = LLTokenizer(text.tokenizer.to_str(), n_vocab=vocabulary, eos_token=min(text.stop_ids))
        return made[vocabulary]


def _bounded(text: str, what: str) -> str:
    if len(as_text(text, what).encode()) > MAX_BYTES:
        raise InputError(f"{what} is larger than {MAX_BYTES >> 10} KiB")
    return text


def _for_a_rule(found: re.Match[str]) -> str:
    """A piece of an expression as it stands between two slashes on one line."""
    return {"/": "\\/", "\n": "\\n", "\\\n": "\\n"}.get(found[0], found[0])


def _escaped(text: str) -> str:
    """White space for a regular expression."""
    return "".join(f"\\x{ord(letter):02x}" for letter in text)
