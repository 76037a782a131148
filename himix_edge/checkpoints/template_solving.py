"""From a Jinja chat template to what it writes around each message: rendered with known messages, then proved.

What stands between two known messages tells the prefixes and suffixes; no family has to be known. What comes out is
taken only if it gives the template's own text for other conversations too: several turns, a system message, contents
that look like markup.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from himix_edge.checkpoints.jinja import DATE, JinjaTemplate, Said
from himix_edge.errors import InputError
from himix_edge.image_text import ImageText, Slots
from himix_edge.text import ChatTemplate, Message

SYSTEM, ASKED, ANSWER, NEXT = "Qs7stem", "Qu5er", "An5wer", "Ne8t"  # found again in the text
DATED = re.compile(rf"[^\n]*{DATE}[^\n]*\n?")  # a line that holds today's date is left out
TURNS = (("user", "What is\n\n it?"), ("assistant", "A red  circle:\n- {{ r }}"), ("user", "Why [/INST] <|im_end|>?"),
         ("assistant", "It's \"d\u00e9j\u00e0 vu\" \u4e2d \U0001f600"), ("user", "a"))  # fmt: skip
RULES = ("system", 'You\'re "brief".\n\n  {% x %} <<SYS>>')


@dataclass(frozen=True)
class Observed:
    """What the template writes between the known messages.

    Before the first question, `ahead`; behind a question, up to where the answer starts, `opening`; between an answer
    and the next question, `between`; behind a last answer, `end`; before and behind a system message, `before_system`
    and `behind_system` (None: it takes none). `said` is what it writes in front of an answer in addition to `opening`.
    `told` are two lengths of white space: in front of an answer to come, and what stands in its place in a history.
    """

    ahead: str
    opening: str
    said: str
    between: str
    end: str | None
    before_system: str | None = None
    behind_system: str | None = None
    told: tuple[str, str] = ("", "")


def solve(jinja: JinjaTemplate, bos: str, tokens: Sequence[str], where: str) -> ChatTemplate:
    """The declarative form of a Jinja template.

    Args:
        jinja: the template.
        bos: the tokenizer's token for the start of a text; "" if it has none.
        tokens: the tokenizer's added tokens.
        where: the file, for messages.

    Returns:
        The template; `stop` holds the token that ends a turn, and is empty if the template writes none.

    Raises:
        InputError: it writes what no declarative template does, or takes too much time or memory.
    """
    texts = [_undated(text, tokens) for text in jinja.render([(said, to_come) for said, to_come, _ in _PROBES])]
    seen = _observed(dict(zip((name for *_, name in _PROBES), texts, strict=True)))
    if seen is None:
        raise unsupported(
            where, "it takes no conversation of two turns, or writes more than the messages and their ends"
        )
    with_system, without = [*_PROOFS, *_SYSTEM_PROOFS], list(_PROOFS)
    wanted = [_undated(text, tokens) for text in jinja.render([(said, True) for said in with_system])]
    options = [(seen, with_system)] if seen.before_system is not None else []
    options.append((replace(seen, before_system=None, behind_system=None), without))
    for observed, proofs in options:
        for template in _candidates(observed, bos):
            pairs = zip(proofs, wanted, strict=False)
            if all(_rendered(template, said, observed.told) == text for said, text in pairs):
                return replace(template, stop=_turn_end(observed, template, tokens))
    raise unsupported(where, "what it writes around a message depends on more than who says it")


def solve_pictures(jinja: JinjaTemplate, template: ChatTemplate, slot: str, where: str) -> ImageText:
    """What a Jinja template writes around the pictures of a first message, each of them written as `slot`.

    Args:
        jinja: the template.
        template: its declarative form.
        slot: the token that stands for a picture.
        where: the file, for messages.

    Raises:
        InputError: it writes no pictures, or not all of them before the words.
    """
    asked = [(ASKED, 1), (ASKED, 2), (ASKED, 3), (NEXT, 1)]
    texts = jinja.render_pictures(asked)
    whole = _rendered(template, [("user", ASKED)]).partition(ASKED)[0]
    ahead = whole[: len(whole) - len(template.user[0])]
    one, two = _parts(texts[0], slot, ASKED), _parts(texts[1] and texts[1].replace(slot, NEXT, 1), NEXT, slot, ASKED)
    if one is not None and two is not None and one[0].startswith(ahead):
        images = ImageText(slot, one[0][len(ahead) :], two[1], one[1])
        behind = images.after, template.user[1] + template.assistant[0]
        if all(
            text == ahead + images.pictures([Slots(0, 0, 1)] * count) + words.join(behind)
            for text, (words, count) in zip(texts, asked, strict=True)
        ):
            return images
    raise unsupported(where, f"it does not write pictures as {slot} before the words of a message")


def unsupported(where: str, why: str) -> InputError:
    """The error for a chat template that cannot be taken over."""
    return InputError(
        f"{where}: its chat template is not supported ({why}); give one with himix convert --chat-template NAME_OR_FILE"
    )


_ONE, _TWO = [("user", ASKED)], [("user", ASKED), ("assistant", ANSWER), ("user", NEXT)]
_PROBES: list[tuple[Said, bool, str]] = [
    (_ONE, True, "one"), (_TWO, True, "two"), (_TWO[:2], False, "ended"), ([("system", SYSTEM), *_ONE], True, "system"),
]  # fmt: skip
_PROOFS: list[Said] = [_ONE, _TWO, TURNS[:1], TURNS[2:3], TURNS[:3], TURNS]
_SYSTEM_PROOFS: list[Said] = [[RULES, *TURNS[:1]], [RULES, *TURNS]]


def _observed(texts: dict[str, str | None]) -> Observed | None:
    one, two = _parts(texts["one"], ASKED), _parts(texts["two"], ASKED, ANSWER, NEXT)
    if one is None or two is None or two[0] != one[0] or two[3] != one[1]:
        return None
    ahead, opening = one
    same = next((i for i, pair in enumerate(zip(opening, two[1], strict=False)) if pair[0] != pair[1]), len(opening))
    told = opening[same:], two[1][same:]
    if any(text.strip() for text in told):
        return None
    said = "" if told[0] else told[1]
    told = told if told[0] else ("", "")
    ended, system = _parts(texts["ended"], ASKED, ANSWER), _parts(texts["system"], SYSTEM, ASKED)
    end = ended[2] if ended else None
    if system is None or system[2] != opening:
        return Observed(ahead, opening, said, two[2], end, told=told)
    return Observed(ahead, opening, said, two[2], end, system[0], system[1], told)


def _candidates(seen: Observed, bos: str) -> Iterator[ChatTemplate]:
    """Ways to cut what was seen into prefixes and suffixes; the tidiest first, all of them give the same text."""
    if seen.end is not None and seen.between.startswith(seen.end):
        yield from _cut(seen, seen.between[len(seen.end) :], bos)
    shared = _common_end([text for text in (seen.ahead, seen.between, seen.behind_system) if text is not None])
    yield from _cut(seen, shared, bos)
    if seen.behind_system is not None:
        yield from _cut(seen, _common_end([seen.between, seen.behind_system]), bos)


def _cut(seen: Observed, prefix: str, bos: str) -> Iterator[ChatTemplate]:
    """With `prefix` before a user's message."""
    if not seen.between.endswith(prefix):
        return
    end = seen.between[: len(seen.between) - len(prefix)]
    blank = seen.opening[: len(seen.opening) - len(seen.opening.lstrip())]
    behind_user = end if end and seen.opening.startswith(end) else blank
    base = ChatTemplate(
        (prefix, behind_user), (seen.opening[len(behind_user) :], end), stop=(), said=seen.said,
    )  # fmt: skip
    before, behind = seen.before_system, seen.behind_system
    if before is None or behind is None:
        if seen.ahead.endswith(prefix):
            yield replace(base, bos=seen.ahead[: len(seen.ahead) - len(prefix)])
        return
    if behind.endswith(prefix):
        suffix = behind[: len(behind) - len(prefix)]
        start = seen.ahead[: len(seen.ahead) - len(prefix)]
        if seen.ahead.endswith(prefix) and before.startswith(start):
            yield replace(base, bos=start, system=(before[len(start) :], suffix))
        elif seen.ahead.startswith(before) and seen.ahead.endswith(behind):
            default = seen.ahead[len(before) : len(seen.ahead) - len(behind)]
            start = bos if before.startswith(bos) else ""
            if default:
                yield replace(base, bos=start, system=(before[len(start) :], suffix), default_system=default)
    if seen.ahead == before + behind and seen.between.endswith(behind):  # a system turn that may be empty
        end = seen.between[: len(seen.between) - len(behind)]
        yield replace(
            base, bos=before, system=("", ""), user=(behind, base.user[1]), assistant=(base.assistant[0], end)
        )


def _turn_end(seen: Observed, template: ChatTemplate, tokens: Sequence[str]) -> tuple[str, ...]:
    """The first token that the template writes behind an answer, of its turn."""
    text = template.assistant[1] if seen.end is None else seen.end
    found = [(text.find(token), -len(token), token) for token in tokens if token and token in text]
    return (min(found)[2],) if found else ()


def _rendered(template: ChatTemplate, said: Said, told: tuple[str, str] = ("", "")) -> str:
    """A conversation as the template writes it, with `Observed.told` in its history."""
    to_come, ended = template.assistant
    history = replace(template, assistant=(to_come.removesuffix(told[0]) + told[1], ended))
    *turns, _ = history.render([Message(*turn) for turn in said])
    return "".join(part.text for part in turns) + to_come


def _undated(text: str | None, tokens: Sequence[str]) -> str | None:
    """Without the lines that hold today's date, unless one holds more than words: then the text is of no use."""
    if text is None or DATE not in text:
        return text
    if any(token and token in line for line in DATED.findall(text) for token in tokens):
        return None
    return DATED.sub("", text)


def _parts(text: str | None, *contents: str) -> list[str] | None:
    """What stands before, between and behind `contents`; None unless each is there once, in order."""
    if text is None or any(text.count(content) != 1 for content in contents):
        return None
    found = []
    for content in contents:
        before, _, text = text.partition(content)
        found.append(before)
    return None if len(found) < len(contents) else [*found, text]


def _common_end(texts: Sequence[str]) -> str:
    end = min(texts, key=len)
    while not all(text.endswith(end) for text in texts):
        end = end[1:]
    return end
