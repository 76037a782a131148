"""Which regular expressions of a tokenizer may run: those that cannot backtrack without end.

The tokenizers library searches with Oniguruma, which backtracks: `(a+)+$` takes exponential time on forty letters. A
pattern is refused here unless each of its alternatives has at most one unbounded repeat and few choices that can be
tried again, so that a search takes quadratic time at worst. The published ones (GPT-2, Llama 3, Qwen, o200k, DeepSeek)
all are so.
"""

import re
from dataclasses import dataclass, replace

MAX_LENGTH = 8192
MAX_REPEATS = 64
MAX_ALTERNATIVES = 32  # of a group
REPEAT, GROUP, OPTION = 4, 2, 1  # what can be tried again: unbounded repeats, alternatives, options and short repeats
MAX_TRIED = 7
KNOWN = {r"\d{1,3}(?=(?:\d{3})*\b)"}  # digits in threes from the right
ZERO_WIDTH = "bBAzZG"
CHARACTERS = "sSdDwWhHRNOnrtfvae"  # escapes that stand for characters
GROUPS = re.compile(r"\(\?(?:[ims-]*:|>|<[A-Za-z_]\w*>)")
LOOKAROUND = re.compile(r"\(\?<?[=!]")
FLAGS = re.compile(r"\(\?[ims-]+\)")
INTERVAL = re.compile(r"\{(\d*)(,?)(\d*)\}")
ESCAPE = re.compile(r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|[^\w\s]|\s|[A-Za-z])")


@dataclass(frozen=True)
class Piece:
    """What is known of a part of a pattern.

    `empty`: it can match no character at all; `fails`: it may find no match; `choices`: the ways to match it, weighted
    as above; `tried`: those of them that something can fail behind, so that the next one is tried.
    """

    empty: bool
    fails: bool
    choices: int = 0
    tried: int = 0
    alternatives: int = 1


def check_pattern(pattern: str) -> None:
    """Raises ValueError, saying why, for a pattern that could take too long, matches nothing, or is not understood."""
    if pattern in KNOWN:
        return
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH} characters")
    parser = _Parser(pattern)
    whole = parser.alternatives()
    if parser.at < len(pattern):
        raise ValueError(f"an unexpected ) at character {parser.at}")
    if whole.empty:
        raise ValueError("it matches where no character is")
    if whole.tried > MAX_TRIED:
        raise ValueError("its repeats can be tried over and over")


class _Parser:
    def __init__(self, pattern: str):
        self.pattern, self.at, self._depth = pattern, 0, 0

    def alternatives(self) -> Piece:
        """Up to the end or an unopened parenthesis."""
        found = [self._sequence()]
        while self._next("|"):
            found.append(self._sequence())
        return Piece(
            any(piece.empty for piece in found), all(piece.fails for piece in found),
            max(piece.choices for piece in found), max(piece.tried for piece in found), len(found),
        )  # fmt: skip

    def _sequence(self) -> Piece:
        pieces: list[Piece] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            pieces.append(self._repeated())
        tried, last = 0, True
        for piece in reversed(pieces):  # nothing can fail behind the last ones
            tried += piece.tried if last else piece.choices
            last = last and not piece.fails
        return Piece(
            all(piece.empty for piece in pieces), any(piece.fails for piece in pieces),
            sum(piece.choices for piece in pieces), tried,
        )  # fmt: skip

    def _repeated(self) -> Piece:
        group = self.pattern[self.at] == "("
        piece, stacked = self._atom(), 0
        while (found := self._quantifier()) is not None:
            least, most, possessive = found
            if group and (least, most) != (0, 1):
                raise ValueError("it repeats a group")
            stacked += 1
            if stacked > 2 or (stacked == 2 and most is not None):
                raise ValueError("it repeats a repeat")
            choices = 0 if least == most or possessive else OPTION if most and most <= 8 else REPEAT
            choices += piece.choices + (REPEAT if stacked > 1 else 0)
            # what stands at an end stops where it stops
            piece = Piece(piece.empty or not least, piece.fails and bool(least), choices, piece.tried)
        return piece

    def _quantifier(self) -> tuple[int, int | None, bool] | None:
        """(least, most, whether what it took is never given back)."""
        simple: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        sign = self.pattern[self.at : self.at + 1]
        if sign in simple and sign:
            self.at += 1
            possessive = self._next("+")
            if not possessive:
                self._next("?")  # lazy
            return (*simple[sign], possessive)
        interval = INTERVAL.match(self.pattern, self.at)
        if interval is None or not (interval[1] or interval[3]):
            return None
        self.at = interval.end()
        self._next("?")
        bounds = [int(number) for number in (interval[1], interval[3]) if number]
        if max(bounds) > MAX_REPEATS:
            raise ValueError(f"it repeats more than {MAX_REPEATS} times")
        most = int(interval[3]) if interval[3] else None if interval[2] else bounds[0]
        return int(interval[1] or 0), most, False

    def _atom(self) -> Piece:
        sign = self.pattern[self.at]
        if sign == "(":
            return self._group()
        if sign == "[":
            self._class()
        elif sign == "\\":
            return self._escape()
        else:
            self.at += 1
            if sign in "^$":
                return Piece(empty=True, fails=True)
            if sign in "?*+":
                raise ValueError(f"nothing stands before {sign}")
        return Piece(empty=False, fails=True)

    def _group(self) -> Piece:
        if flags := FLAGS.match(self.pattern, self.at):
            self.at = flags.end()
            return Piece(empty=True, fails=False)
        around = LOOKAROUND.match(self.pattern, self.at)
        plain = GROUPS.match(self.pattern, self.at)
        if around is None and plain is None and self.pattern.startswith(("(?", "(*"), self.at):
            raise ValueError(f"{self.pattern[self.at : self.at + 4]!r} is not supported")
        opening = plain or around
        self.at = opening.end() if opening else self.at + 1
        self._depth += 1
        if self._depth > 16:
            raise ValueError("its groups are nested too deep")
        inner = self.alternatives()
        self._depth -= 1
        if not self._next(")"):
            raise ValueError("a group is not closed")
        if inner.alternatives > MAX_ALTERNATIVES:
            raise ValueError(f"a group has more than {MAX_ALTERNATIVES} alternatives")
        if around is None or plain is not None:
            return replace(inner, choices=inner.choices + GROUP) if inner.alternatives > 1 else inner
        if inner.choices >= REPEAT:
            raise ValueError("it looks around for a repeat")
        return Piece(empty=True, fails=True)

    def _escape(self) -> Piece:
        escape = ESCAPE.match(self.pattern, self.at)
        letter = escape[0][1] if escape else ""
        known = not letter.isalpha() or letter in ZERO_WIDTH + CHARACTERS + "pPxu"
        if escape is None or not known:
            raise ValueError(f"{self.pattern[self.at : self.at + 3]!r} is not supported")
        self.at = escape.end()
        return Piece(empty=letter in ZERO_WIDTH, fails=True)

    def _class(self) -> None:
        """A bracketed class, which may hold others."""
        depth = 0
        while self.at < len(self.pattern):
            sign = self.pattern[self.at]
            self.at += 2 if sign == "\\" else 1
            if sign == "[":
                depth += 1
                self._next("^")
                if self.pattern[self.at : self.at + 1] == "]":
                    self.at += 1  # in front it is itself
            elif sign == "]":
                depth -= 1
                if not depth:
                    return
        raise ValueError("a class is not closed")

    def _next(self, sign: str) -> bool:
        """Step over `sign` if it comes next."""
        if self.pattern.startswith(sign, self.at):
            self.at += 1
            return True
        return False
