"""The session API, the same for every runtime: encode an image once, ask about it as often as you like."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from himix_edge.bundle import GenerationDefaults
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.preprocess import Picture, load_image
from himix_edge.runtimes.engine import Engine, Floats
from himix_edge.runtimes.image_kv import ImageKV, concat
from himix_edge.runtimes.sampling import Sampler
from himix_edge.runtimes.stopping import StopTexts
from himix_edge.text import Message, TextProcessor

Image = ImageKV | str | Path | Picture


@dataclass(frozen=True)
class Piece:
    """One generated token and the text it completes (empty inside a multi-byte character or a possible stop text).

    `token_id` is None for text that was held back when the answer ended: a possible stop text, an unfinished character.
    """

    text: str
    token_id: int | None


@dataclass
class Stats:
    """Times of the last answer, in milliseconds; an image stage is 0 if its ImageKV was given.

    `ttft` runs from the call to the first non-empty text, image stages included. `inter_token` holds the time of each
    further token.
    """

    preprocess: float = 0.0
    vision_encoder: float = 0.0
    vision_injector: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    inter_token: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    vision_tokens: int = 0
    new_tokens: int = 0
    finish_reason: str = ""  # "stop": the model ended its answer, "length": max_new_tokens or the cache's end

    def __str__(self) -> str:
        later = f", then {np.median(self.inter_token):.2f} ms a token (median)" if self.inter_token else ""
        return (
            f"preprocess {self.preprocess:.1f}  vision_encoder {self.vision_encoder:.1f}  "
            f"vision_injector {self.vision_injector:.1f}  prefill {self.prefill:.1f}  TTFT {self.ttft:.1f} ms{later}"
        )


class Session:
    """An open model. Not thread-safe: it has one KV cache."""

    def __init__(
        self, engine: Engine, text: TextProcessor, config: ModelConfig, model_id: str, defaults: GenerationDefaults
    ):
        self.engine, self.text, self.config, self.model_id, self.defaults = engine, text, config, model_id, defaults
        self.stats = Stats()
        self.owner: Chat | None = None  # whose tokens are in the cache

    @property
    def capacity(self) -> int:
        """Cache slots: vision tokens, prompt and answer together."""
        return self.engine.capacity

    def encode_image(self, image: str | Path | Picture) -> ImageKV:
        """An image file's keys and values, to be used under any prompt.

        Raises:
            InputError: the file cannot be read as an image, or the model has no vision tower.
        """
        return self.encode_images([image])

    def encode_images(self, images: Sequence[str | Path | Picture]) -> ImageKV:
        """Several image files' keys and values, joined; `self.stats` has the times of the image stages."""
        self.stats = Stats()
        return self.vision(images, self.stats)

    def generate(
        self,
        prompt: str,
        image: Image | Sequence[Image] | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Piece]:
        """Answer one prompt, token by token. `self.stats` is complete when the iterator ends.

        Args:
            prompt: the user's message.
            image: an ImageKV, an image file, several of either, or none.
            max_new_tokens, temperature, top_p: None takes the model's defaults; temperature 0 is greedy.
            seed: makes sampling repeatable.
            stop: further texts that end the answer; a matching text is not part of it.

        Raises:
            InputError: an empty prompt, one that does not fit into the cache, a bad image or setting. Raised by this
                call, before the first piece.
        """
        return Chat(self, image).send(prompt, max_new_tokens, temperature, top_p, seed, stop)

    def chat(self, image: Image | Sequence[Image] | None = None, system: str | None = None) -> "Chat":
        """A conversation of several turns; each turn adds to the cache, nothing is computed twice."""
        return Chat(self, image, system)

    def answer(
        self, prompt: str, image: Image | Sequence[Image] | None = None, max_new_tokens: int | None = None
    ) -> str:
        """The whole greedy answer as one string."""
        return "".join(piece.text for piece in self.generate(prompt, image, max_new_tokens, temperature=0)).strip()

    def vision(self, image: Image | Sequence[Image] | None, stats: Stats) -> ImageKV:
        """The K/V of everything that was given as `image`; with nothing, one of zero slots."""
        many = isinstance(image, Sequence) and not isinstance(image, str)
        images: list[Any] = list(image) if many else [] if image is None else [image]  # type: ignore[arg-type]
        if not images:
            return self.no_image()
        encoded = [self._checked(i) if isinstance(i, ImageKV) else self._encode(i, stats) for i in images]
        return concat(encoded)

    def no_image(self) -> ImageKV:
        """K/V of zero slots: what a text without an image starts from."""
        decoder = self.config.decoder
        nothing = np.zeros((self.config.num_vision_rows, decoder.num_key_value_heads, 0, decoder.head_dim), np.float32)
        return ImageKV(nothing, nothing, self.model_id)

    def _checked(self, image: ImageKV) -> ImageKV:
        decoder = self.config.decoder
        fits = (*image.key.shape[:2], image.key.shape[3]) == (
            self.config.num_vision_rows, decoder.num_key_value_heads, decoder.head_dim,
        )  # fmt: skip
        if image.model_id != self.model_id or not fits:
            raise InputError(
                f"this ImageKV was made by another model ({image.model_id or 'unknown'}, this one is {self.model_id}); "
                "encode the image again"
            )
        return image

    def _encode(self, path: str | Path | Picture, stats: Stats) -> ImageKV:
        if self.config.vision is None:
            raise InputError("this model has no vision tower; it takes no images")
        clock = _Clock()
        pixels = load_image(path, self.config.vision.image_size, self.config.vision.resample)
        stats.preprocess += clock.lap()
        features = self.engine.encode(pixels)
        stats.vision_encoder += clock.lap()
        key, value = self.engine.inject(features)
        stats.vision_injector += clock.lap()
        return ImageKV(key, value, self.model_id, self.config.first_text_position(key.shape[2]))


class Chat:
    """A conversation. Several may exist on one session; the one that speaks takes over the cache."""

    def __init__(self, session: Session, image: Image | Sequence[Image] | None = None, system: str | None = None):
        self._session, self._image, self._system = session, image, system
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
        stop: Sequence[str] = (),
    ) -> Iterator[Piece]:
        """Say something and stream the answer; arguments and errors as in `Session.generate`."""
        began = time.perf_counter()
        session, defaults = self._session, self._session.defaults
        stats = session.stats = Stats()
        sampler = Sampler(
            defaults.temperature if temperature is None else temperature,
            defaults.top_p if top_p is None else top_p,
            seed,
        )
        limit = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens is {limit}; it must be at least 1")
        if self._vision is None:
            self._vision = session.vision(self._image, stats)
        new_ids = self._encode(prompt)
        used = self._vision.tokens + len(self._history)
        room = session.capacity - used - len(new_ids)
        if room < 1:
            raise InputError(
                f"the prompt does not fit: {used} cache slots are used, it needs {len(new_ids)} and one for an answer, "
                f"this model's context capacity is {session.capacity}; shorten it or start a new chat"
            )
        stats.prompt_tokens, stats.vision_tokens = len(new_ids), self._vision.tokens
        return self._stream(new_ids, sampler, min(limit, room), StopTexts(stop), stats, began)

    def _encode(self, prompt: str) -> list[int]:
        text = self._session.text
        if self._history:
            return self._pending + text.encode_next_turn(prompt)
        system = [Message("system", self._system)] if self._system else []
        return text.encode_chat([*system, Message("user", prompt)])

    def _stream(
        self, new_ids: list[int], sampler: Sampler, limit: int, stop: StopTexts, stats: Stats, began: float
    ) -> Iterator[Piece]:
        decoder = self._session.text.stream()
        clock = _Clock()
        logits = self._feed(new_ids)
        self._pending = []  # it was the first of new_ids
        stats.prefill = clock.lap()
        stats.finish_reason = "length"
        while stats.new_tokens < limit:
            token = sampler.pick(logits)
            if token in self._session.text.stop_ids:
                stats.finish_reason = "stop"
                break
            self._pending = [token]
            stats.new_tokens += 1
            said = decoder.step(token) + (decoder.rest() if stats.new_tokens == limit else "")
            text, stopped = stop.feed(said)
            if text and not stats.ttft:
                stats.ttft = (time.perf_counter() - began) * 1000
            yield Piece(text, token)
            if stopped:
                stats.finish_reason = "stop"
                return
            if stats.new_tokens < limit:
                clock.lap()
                logits = self._feed(self._pending)
                self._pending = []
                stats.inter_token.append(clock.lap())
        text, stopped = stop.feed(decoder.rest())
        if stopped:
            stats.finish_reason = "stop"
        if rest := text + stop.rest():
            yield Piece(rest, None)

    def _feed(self, ids: list[int]) -> Floats:
        """Append `ids` to the cache; if it holds another conversation, put this one's tokens back first."""
        session, vision = self._session, self._vision
        assert vision is not None
        missing = ids
        if session.owner is not self:
            session.engine.start(vision.key, vision.value, vision.next_position)
            missing = self._history + ids
            session.owner = self
        self._history = self._history + ids
        return session.engine.step(np.array(missing, np.int64))


class _Clock:
    """Milliseconds between calls."""

    def __init__(self) -> None:
        self._then = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._then = (now - self._then) * 1000, now
        return elapsed
