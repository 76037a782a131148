"""A conversation on a session: what was said, what the cache holds of it, and the next answer."""

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from himix_edge.adapter_file import Adapter
from himix_edge.errors import InputError
from himix_edge.runtimes.answer import Answer, Piece
from himix_edge.runtimes.engine import Floats
from himix_edge.runtimes.image_kv import Image, ImageKV, as_images
from himix_edge.runtimes.sampling import Sampler, likeliest, log_probability, positive, whole_number
from himix_edge.runtimes.stats import Clock, Stats
from himix_edge.runtimes.stopping import StopTexts
from himix_edge.runtimes.structure import Matcher, Structure
from himix_edge.text import Message

if TYPE_CHECKING:
    from himix_edge.runtimes.session import Session


@dataclass(frozen=True)
class _Asked:
    """How an answer is made; times are of `time.perf_counter`."""

    began: float
    sampler: Sampler
    limit: int
    stop: StopTexts
    late: float
    alternatives: int
    matcher: Matcher | None


class Chat:
    """A conversation. Several may exist on one session; the one that speaks takes over the cache.

    It gives one answer at a time: asking again ends an answer that was not read to its end at the last piece that was
    read. What nothing was read of was never asked.
    """

    def __init__(
        self,
        session: "Session",
        image: Image | Sequence[Image] | None = None,
        system: str | None = None,
        history: Sequence[Message] = (),
    ):
        self.session, self._system, self._said = session, system, list(history)
        self._images = as_images(image)
        self.answer: Answer | None = None  # the one that may be read
        self._vision: ImageKV | None = None
        self._adapter: Adapter | None = None  # under which the last message was said
        self._history: list[int] = []  # token ids in the cache behind the image
        self._pending: list[int] = []  # said, but not in the cache yet: the last token of an answer

    def send(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        *,
        timeout: float | None = None,
        alternatives: int = 0,
        structure: Structure | None = None,
    ) -> Answer:
        """Say something and stream the answer; arguments and errors as in `Session.generate`."""
        began = time.perf_counter()
        session, defaults = self.session, self.session.defaults
        stats = Stats()
        sampler = Sampler(
            defaults.temperature if temperature is None else temperature,
            defaults.top_p if top_p is None else top_p,
            seed,
        )
        limit = defaults.max_new_tokens
        if max_new_tokens is not None:
            limit = whole_number("max_new_tokens", max_new_tokens, least=1)
        asked = _Asked(
            began, sampler, limit, StopTexts(stop),
            math.inf if timeout is None else began + positive("timeout", timeout),
            whole_number("alternatives", alternatives, least=0),
            None if structure is None else structure.matcher(session.text, session.config.decoder.vocab_size),
        )  # fmt: skip
        with session.lock:  # what follows must be one, as another thread may ask this chat too
            session.stats = stats
            vision = self._look(stats)
            new_ids, room = self._fitting(prompt)
            stats.prompt_tokens, stats.vision_tokens = len(new_ids), vision.tokens
            pieces = self._stream(new_ids, asked, min(asked.limit, room), stats)
            self.answer = Answer(self, pieces, stats)
            return self.answer

    def log_probability(self, prompt: str, answer: str) -> float:
        """See `Session.rank`; the chat is as if it had been said."""
        with self.session.lock:
            self._look(Stats())
            ids, (asked, room) = self.session.text.encode_answer(answer), self._fitting(prompt)
            if len(ids) > room:
                raise InputError(f"the answer {answer!r:.40} needs {len(ids)} cache slots, {room} are free")
            logits, total = self._feed(asked), 0.0
            for number, token in enumerate(ids, 1):
                total += log_probability(logits, token)
                if number < len(ids):
                    logits = self._feed([token])
            self._pending = ids[-1:]
            return total

    @property
    def vision(self) -> ImageKV | None:
        """The image's keys and values, to be used in other chats; None before the first message."""
        return self._vision

    def _look(self, stats: Stats) -> ImageKV:
        """The image's keys and values, made now if there are none, or if they were made under another adapter."""
        session = self.session
        if self._vision is None or self._vision.model_id.partition("+")[0] != session.model_id:
            self._vision = session.vision(self._images, stats, self._system)
        self._adapter = session.adapter
        return self._vision

    def _fitting(self, prompt: str) -> tuple[list[int], int]:
        """A prompt's tokens, and how many of an answer fit behind them. Raises InputError if none does."""
        assert self._vision is not None
        new_ids = self._encode(prompt)
        used = self._vision.tokens + len(self._history)
        room = self.session.capacity - used - len(new_ids)
        if room < 1:
            raise InputError(
                f"the prompt does not fit: {used} cache slots are used, it needs {len(new_ids)} and one for an answer, "
                f"this model's context capacity is {self.session.capacity}; shorten it or start a new chat"
            )
        return new_ids, room

    def _encode(self, prompt: str) -> list[int]:
        text = self.session.text
        if self._history:
            return self._pending + text.encode_next_turn(prompt)
        said = [*self._said, Message("user", prompt)]
        if self.session.config.images is not None and self._vision is not None and self._vision.tokens:
            first, *later = said
            if first.role != "user":
                raise InputError("this model's pictures belong to the user's first message; begin with that one")
            return text.encode_behind_pictures(first.content, later)
        system = [Message("system", self._system)] if self._system else []
        return text.encode_chat([*system, *said])

    def _stream(self, new_ids: list[int], asked: _Asked, limit: int, stats: Stats) -> Generator[Piece, None, None]:
        decoder, stop, matcher = self.session.text.stream(), asked.stop, asked.matcher
        clock = Clock()
        logits = self._feed(new_ids, stats)
        self._pending = []  # it was the first of new_ids
        stats.prefill = clock.lap()
        stats.finish_reason = "length"
        while stats.new_tokens < limit:
            token = asked.sampler.pick(logits if matcher is None else matcher.allowed(logits))
            share = log_probability(logits, token)
            stats.log_probability += share
            if token in self.session.text.stop_ids:
                stats.finish_reason = "stop"
                break
            whole = matcher is not None and matcher.take(token)
            self._pending = [token]
            stats.new_tokens += 1
            said = decoder.step(token) + (decoder.rest() if stats.new_tokens == limit else "")
            text, stopped = stop.feed(said)
            if text and not stats.ttft:
                stats.ttft = (time.perf_counter() - asked.began) * 1000
            yield Piece(text, token, share, likeliest(logits, asked.alternatives))
            if stopped:
                stats.finish_reason = "stop"
                return
            if whole:
                stats.finish_reason = "stop"
                break
            if stats.new_tokens < limit:
                if time.perf_counter() > asked.late:
                    stats.finish_reason = "timeout"
                    break
                clock.lap()
                logits = self._feed(self._pending)
                self._pending = []
                stats.inter_token.append(clock.lap())
        text, stopped = stop.feed(decoder.rest())
        if stopped:
            stats.finish_reason = "stop"
        if rest := text + stop.rest():
            yield Piece(rest, None)

    def _feed(self, ids: list[int], stats: Stats | None = None) -> Floats:
        """Append `ids` to the cache; if it holds another conversation, put this one's tokens back first."""
        session, vision = self.session, self._vision
        assert vision is not None
        with session.lock:
            if session.adapter is not self._adapter:
                raise InputError("the session's adapter was changed before this answer was read to its end; ask again")
            whole, there = self._history + ids, self._in_cache(ids)
            session.owner = None  # nobody's, should the engine not come to its end
            if there is None:
                session.engine.start(vision.key, vision.value, vision.next_position)
            elif stats is not None:
                stats.cached_tokens = max(there - len(self._history), 0)
            logits = session.engine.step(np.array(whole[there:], np.int64))
            self._history = whole
            session.owner = self
            return logits

    def _in_cache(self, ids: list[int]) -> int | None:
        """How many of this conversation's tokens, `ids` behind it, the cache holds; None: it holds something else."""
        other = self.session.owner
        if other is self:
            return len(self._history)
        if other is None or not other.begins_as(self._vision):
            return None
        whole, theirs = self._history + ids, other._history
        return len(theirs) if len(theirs) < len(whole) and whole[: len(theirs)] == theirs else None

    def begins_as(self, vision: ImageKV | None) -> bool:
        """Whether this conversation stands behind the very same ImageKV, or both have none."""
        if vision is None or self._vision is None:
            return False
        return vision is self._vision or vision.tokens == self._vision.tokens == 0
