"""The session API, the same for every runtime: encode an image once, ask about it as often as you like.

A session has one KV cache and works on one thing at a time: a token of an answer, or an image. What was written for
another conversation is written anew when a conversation goes on, so answers that are read in turns, or in several
threads, are right, and slower than one after the other.
"""

import math
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeGuard

import numpy as np

from himix_edge.bundle import GenerationDefaults
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.preprocess import ImageSource, is_image, load_image
from himix_edge.runtimes.engine import ClosedEngine, Engine, Floats, as_picture_engine, forked
from himix_edge.runtimes.image_kv import MAX_HEADER_BYTES, ImageKV, concat
from himix_edge.runtimes.pictures import connect_pictures, picture_ids, picture_model_id, read_pictures
from himix_edge.runtimes.sampling import Sampler, likeliest, log_probability, positive, whole_number
from himix_edge.runtimes.stopping import StopTexts
from himix_edge.runtimes.structure import Matcher, Structure
from himix_edge.text import Message, TextProcessor
from himix_edge.tiles import load_tiles

Image = ImageKV | ImageSource


@dataclass(frozen=True)
class Piece:
    """One generated token and the text it completes (empty inside a multi-byte character or a possible stop text).

    `token_id` is None for text that was held back when the answer ended: a possible stop text, an unfinished character.
    `log_probability` is the natural logarithm of the share that the model gives this token, at temperature 1;
    `alternatives` are the likeliest tokens with theirs, as many as were asked for.
    """

    text: str
    token_id: int | None
    log_probability: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass
class Stats:
    """Times of the last answer, in milliseconds; an image stage is 0 if its ImageKV was given.

    `ttft` runs from the call to the first non-empty text, image stages included. `inter_token` holds the time of each
    further token. `cached_tokens` are those of the prompt that the cache held already, from a conversation that began
    in the same way. `log_probability` is the sum over the answer's tokens and the one that ended it: how sure the model
    is of these very words, not how likely they are true.
    """

    preprocess: float = 0.0
    vision_encoder: float = 0.0
    vision_injector: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    inter_token: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    vision_tokens: int = 0
    new_tokens: int = 0
    log_probability: float = 0.0
    finish_reason: str = ""  # "stop": the model ended it, "length": max_new_tokens or the cache's end; "timeout"

    @property
    def probability(self) -> float:
        """The share, 0 to 1, that the model gives the answer among all that it could say."""
        return math.exp(min(self.log_probability, 0.0))

    def __str__(self) -> str:
        later = f", then {np.median(self.inter_token):.2f} ms a token (median)" if self.inter_token else ""
        return (
            f"preprocess {self.preprocess:.1f}  vision_encoder {self.vision_encoder:.1f}  "
            f"vision_injector {self.vision_injector:.1f}  prefill {self.prefill:.1f}  TTFT {self.ttft:.1f} ms{later}; "
            f"probability {self.probability:.2g}"
        )


class Session:
    """An open model. It has one KV cache and works on one thing at a time: a token of an answer, or an image.

    Threads may share it, and several conversations: what was written for another one is written anew when a
    conversation goes on, so answers that are read in turns are right, and slower than one after the other. For answers
    at the same time open a session for each thread.

    Attributes:
        stats: times of the last answer.
        model_id: names the weights that make an image's keys and values; an ImageKV has the same.
        config: the model's configuration.
        defaults: what `generate` takes unless told otherwise.
    """

    def __init__(
        self,
        engine: Engine,
        text: TextProcessor,
        config: ModelConfig,
        model_id: str,
        defaults: GenerationDefaults,
        device: str = "cpu",
    ):
        """`device`: what computes, for people and records."""
        self.engine, self.text, self.config, self.model_id, self.defaults = engine, text, config, model_id, defaults
        self.device = device
        self.stats = Stats()
        self.owner: Chat | None = None  # whose tokens are in the cache
        self.lock = threading.RLock()  # held for one call of the engine, and for what must fit to it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model's files and memory. Whatever is asked of the session afterwards raises InputError.

        A thread that works with it finishes its token first. Sessions that share the weights keep them.
        """
        with self.lock:
            self.engine, self.owner = ClosedEngine(self.engine.capacity), None

    def fork(self) -> "Session":
        """A session on the same weights with a cache of its own: both may answer at the same time, in two threads.

        Raises:
            CannotFork: the runtime has no second cache for the same weights (ExecuTorch, Core ML).
        """
        with self.lock:
            return Session(forked(self.engine), self.text, self.config, self.model_id, self.defaults, self.device)

    @property
    def capacity(self) -> int:
        """Cache slots, one a token: vision tokens, prompt and answer together."""
        return self.engine.capacity

    @property
    def max_image_kv_bytes(self) -> int:
        """The largest file that a saved ImageKV of this model has: as many slots as the cache, and a header."""
        decoder = self.config.decoder
        slot = 8 * self.config.num_vision_rows * decoder.num_key_value_heads * decoder.head_dim
        return slot * self.capacity + MAX_HEADER_BYTES + 8

    def encode_image(self, image: Image) -> ImageKV:
        """An image's keys and values, to be used under any prompt; see `himix_edge.preprocess.ImageSource`.

        Raises:
            InputError: it cannot be read as an image, or the model has no vision tower.
        """
        return self.encode_images([image])

    def encode_images(self, images: Sequence[Image]) -> ImageKV:
        """Several images' keys and values, joined along N; `self.stats` has the times of the image stages.

        Raises:
            InputError: as `encode_image`; also several images for a vanilla model, which takes one, and ImageKVs that
                another model made.
        """
        stats = self.stats = Stats()
        return self.vision(images, stats)

    def generate(
        self,
        prompt: str,
        image: Image | Sequence[Image] | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        *,
        timeout: float | None = None,
        alternatives: int = 0,
        structure: Structure | None = None,
    ) -> "Answer":
        """Answer one prompt, token by token. The answer's `stats` (and `self.stats`) are complete when it ends.

        Args:
            prompt: the user's message.
            image: an ImageKV, an image (a path, bytes, an open file, a Pillow image, a uint8 array), a list of several
                of either, or none.
            max_new_tokens: most tokens of the answer; None takes the model's default, as of the next two.
            temperature: 0 is greedy.
            top_p: the smallest set of tokens that reaches this share is drawn from.
            seed: makes sampling repeatable.
            stop: a further text that ends the answer, or several; a matching text is not part of it.
            timeout: seconds from this call, image stages included, after which no further token is begun; the answer
                ends with the `finish_reason` "timeout". None: no limit. `Answer.close` ends one at any moment.
            alternatives: how many of the likeliest tokens each piece names with their logarithms.
            structure: what the answer has to be: a JSON document, a match of an expression, one of several texts. An
                answer with the `finish_reason` "stop" is one, unless a stop text ended it.

        Raises:
            InputError: an empty prompt, one that does not fit into the cache, a bad image or setting. Raised by this
                call, before the first piece.
        """
        return Chat(self, image).send(
            prompt, max_new_tokens, temperature, top_p, seed, stop,
            timeout=timeout, alternatives=alternatives, structure=structure,
        )  # fmt: skip

    def chat(
        self,
        image: Image | Sequence[Image] | None = None,
        system: str | None = None,
        history: Sequence[Message] = (),
    ) -> "Chat":
        """A conversation of several turns; each turn adds to the cache, nothing is computed twice.

        Args:
            image: as in `generate`; it is encoded once, when the first message is sent.
            system: a system message in front of the conversation.
            history: messages of user and assistant that were said already, elsewhere or in a chat that is over. What
                the session's cache still holds of them, behind the very same ImageKV, is not computed again.
        """
        return Chat(self, image, system, history)

    def answer(
        self, prompt: str, image: Image | Sequence[Image] | None = None, max_new_tokens: int | None = None
    ) -> str:
        """The whole greedy answer as one string, without white space at its ends; errors as in `generate`."""
        return "".join(piece.text for piece in self.generate(prompt, image, max_new_tokens, temperature=0)).strip()

    def rank(
        self,
        prompt: str,
        choices: Sequence[str],
        image: Image | Sequence[Image] | None = None,
        system: str | None = None,
    ) -> list[float]:
        """How likely the model finds each of several whole answers: multiple choice without a word said.

        Args:
            prompt: the user's message.
            choices: the answers.
            image: as in `generate`; it is encoded once.
            system: as in `chat`.

        Returns:
            for each choice the natural logarithm of its share among all that could be said, its end included. Long
            answers have small ones; divide by `len(session.text.encode_answer(choice))` to judge them by the token.

        Raises:
            InputError: as `generate`; also no choices, or one that does not fit into the cache.
        """
        if isinstance(choices, str) or not choices:
            raise InputError("choices: give a list of one answer or more")
        vision, found = self.vision(image, Stats(), system), []
        for choice in choices:
            chat = Chat(self, vision, system)
            found.append(chat.log_probability(prompt, choice))
        return found

    def vision(self, image: Image | Sequence[Image] | None, stats: Stats, system: str | None = None) -> ImageKV:
        """The K/V of everything that was given as `image`; with nothing, one of zero slots.

        `system` counts where pictures stand in the text behind it.
        """
        images: list[Image] = [image] if _is_one(image) else list(image) if _are_several(image) else []
        if not images:
            return self.no_image()
        if self.config.images is not None:
            return self._read(images, stats, system)
        encoded = [self._checked(i) if isinstance(i, ImageKV) else self._encode(i, stats) for i in images]
        return concat(encoded)

    def no_image(self) -> ImageKV:
        """K/V of zero slots: what a text without an image starts from."""
        decoder = self.config.decoder
        nothing = np.zeros((self.config.num_vision_rows, decoder.num_key_value_heads, 0, decoder.head_dim), np.float32)
        return ImageKV(nothing, nothing, self.model_id)

    def _checked(self, image: ImageKV, system: str | None = None) -> ImageKV:
        model_id = picture_model_id(self.model_id, system)
        decoder = self.config.decoder
        fits = (*image.key.shape[:2], image.key.shape[3]) == (
            self.config.num_vision_rows, decoder.num_key_value_heads, decoder.head_dim,
        )  # fmt: skip
        if fits and image.model_id == model_id and image.tokens > self.capacity:
            raise InputError(f"this ImageKV fills {image.tokens} cache slots; the model has {self.capacity}")
        position = self.config.first_text_position(image.tokens)
        if image.model_id != model_id or not fits or image.next_position != position:
            same = fits and image.model_id != model_id and image.model_id.partition("+")[0] == self.model_id
            by = "behind another system message" if same else "by another model"
            raise InputError(
                f"this ImageKV was made {by} ({image.model_id or 'unknown'}, this one is {model_id}); "
                "encode the image again"
            )
        return image

    def _encode(self, image: ImageSource, stats: Stats) -> ImageKV:
        if self.config.vision is None:
            raise InputError("this model has no vision tower; it takes no images")
        clock = _Clock()
        pixels = load_image(image, self.config.vision.image_size, self.config.vision.resample)
        stats.preprocess += clock.lap()
        with self.lock:
            features = self.engine.encode(pixels)
            stats.vision_encoder += clock.lap()
            key, value = self.engine.inject(features)
            stats.vision_injector += clock.lap()
        return ImageKV(key, value, self.model_id, self.config.first_text_position(key.shape[2]))

    def _read(self, images: Sequence[Image], stats: Stats, system: str | None) -> ImageKV:
        if len(images) == 1 and isinstance(images[0], ImageKV):
            return self._checked(images[0], system)
        sources = [image for image in images if not isinstance(image, ImageKV)]
        if len(sources) < len(images):
            raise InputError("this model reads its pictures one behind the other; give all of them as pictures")
        vision, layout = self.config.vision, self.config.images
        assert vision is not None
        assert layout is not None
        clock = _Clock()
        alone = len(sources) == 1
        pictures = [load_tiles(image, vision.image_size, layout, alone) for image in sources]
        stats.preprocess += clock.lap()
        engine = as_picture_engine(self.engine)
        ids = picture_ids(self.text, self.config, pictures, system, self.capacity)
        with self.lock:
            features = np.concatenate([engine.encode(tile[None]) for picture in pictures for tile in picture.pixels])
            stats.vision_encoder += clock.lap()
            self.owner = None  # the cache is used to read the pictures
            tokens = connect_pictures(engine, layout, pictures, features)
            key, value = read_pictures(engine, self.config, ids, tokens)
            stats.vision_injector += clock.lap()
        return ImageKV(key, value, picture_model_id(self.model_id, system), key.shape[2])


def _is_one(image: Image | Sequence[Image] | None) -> TypeGuard[Image]:
    return image is not None and (not isinstance(image, Sequence) or is_image(image))


def _are_several(image: Image | Sequence[Image] | None) -> TypeGuard[Sequence[Image]]:
    return isinstance(image, Sequence) and not is_image(image)


class Answer(Iterator[Piece]):
    """The pieces of one answer, made as they are read, and its times.

    A thread that reads while another one works with the session waits for it. When its chat is asked something else
    before the end, the answer ends where it was read to, and reading it on raises InputError. `async for` reads it in
    a thread, a token at a time.
    """

    def __init__(self, chat: "Chat", pieces: Generator[Piece, None, None], stats: Stats):
        self.stats = stats
        self._chat, self._pieces, self._over = chat, pieces, False

    def __next__(self) -> Piece:
        with self._chat.session.lock:
            if not self._over and self._chat.answer is not self:
                raise InputError(
                    "this answer was not read to its end before its chat was asked something else; read each answer "
                    "first, or open a chat for each"
                )
            self._over = True  # also if an error or Ctrl-C ends it
            piece = next(self._pieces)
            self._over = False
            return piece

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        import asyncio

        piece = await asyncio.to_thread(next, self, None)
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """End it here, from any thread; the chat goes on from what was read."""
        with self._chat.session.lock:
            self._over = True
            self._pieces.close()


class Chat:
    """A conversation. Several may exist on one session; the one that speaks takes over the cache.

    It gives one answer at a time: asking again ends an answer that was not read to its end at the last piece that was
    read. What nothing was read of was never asked.
    """

    def __init__(
        self,
        session: Session,
        image: Image | Sequence[Image] | None = None,
        system: str | None = None,
        history: Sequence[Message] = (),
    ):
        self.session, self._system, self._said = session, system, list(history)
        self._image = list(image) if _are_several(image) else image
        self.answer: Answer | None = None  # the one that may be read
        self._vision: ImageKV | None = None
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
            if self._vision is None:
                self._vision = session.vision(self._image, stats, self._system)
            new_ids, room = self._fitting(prompt)
            stats.prompt_tokens, stats.vision_tokens = len(new_ids), self._vision.tokens
            pieces = self._stream(new_ids, asked, min(asked.limit, room), stats)
            self.answer = Answer(self, pieces, stats)
            return self.answer

    def log_probability(self, prompt: str, answer: str) -> float:
        """See `Session.rank`; the chat is as if it had been said."""
        with self.session.lock:
            if self._vision is None:
                self._vision = self.session.vision(self._image, Stats(), self._system)
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

    def _stream(self, new_ids: list[int], asked: "_Asked", limit: int, stats: Stats) -> Generator[Piece, None, None]:
        decoder, stop, matcher = self.session.text.stream(), asked.stop, asked.matcher
        clock = _Clock()
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


class _Clock:
    """Milliseconds between calls."""

    def __init__(self) -> None:
        self._then = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._then = (now - self._then) * 1000, now
        return elapsed
