"""The session API, the same for every runtime: encode an image once, ask about it as often as you like.

A session has one KV cache and works on one thing at a time: a token of an answer, or an image. What was written for
another conversation is written anew when a conversation goes on, so answers that are read in turns, or in several
threads, are right, and slower than one after the other.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from himix_edge.adapter_file import Adapter
from himix_edge.bundle import GenerationDefaults
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.preprocess import ImageSource, load_image
from himix_edge.runtimes.adapter import AdapterRoom, NoRoom, no_adapter
from himix_edge.runtimes.answer import Answer
from himix_edge.runtimes.chat import Chat
from himix_edge.runtimes.engine import ClosedEngine, Engine, as_adaptable, as_picture_engine, forked
from himix_edge.runtimes.image_kv import MAX_HEADER_BYTES, Image, ImageKV, as_images, concat
from himix_edge.runtimes.packed import FLOAT_BITS
from himix_edge.runtimes.pictures import connect_pictures, picture_ids, picture_model_id, read_pictures
from himix_edge.runtimes.stats import Clock, Stats
from himix_edge.runtimes.structure import Structure
from himix_edge.text import Message, TextProcessor
from himix_edge.tiles import load_tiles

NO_ROOM = NoRoom()
ADAPTED = "~"  # in a model_id, between the weights' and the digest of an adapter that changes images


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
        adapter: the one in use, see `use_adapter`.
    """

    def __init__(
        self,
        engine: Engine,
        text: TextProcessor,
        config: ModelConfig,
        model_id: str,
        defaults: GenerationDefaults,
        device: str = "cpu",
        room: AdapterRoom | NoRoom = NO_ROOM,
    ):
        """`device`: what computes, for people and records; `room`: what the engine takes of adapters."""
        self.engine, self.text, self.config, self.model_id, self.defaults = engine, text, config, model_id, defaults
        self.device, self._room, self._weights_id = device, room, model_id
        self.adapter: Adapter | None = None
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
            engine, weights = forked(self.engine), self._weights_id
            other = Session(engine, self.text, self.config, weights, self.defaults, self.device, self._room)
            other.adapter, other.model_id = self.adapter, self.model_id
            return other

    def use_adapter(self, adapter: str | Path | Adapter | None) -> None:
        """Change what the model says by an adapter of low rank, in place of the one before. Nothing is loaded again.

        Chats go on, under the adapter of the moment: what they said is computed anew. An answer that is being read
        ends. Where the adapter changes how images are injected, pictures are encoded again, and an ImageKV that was
        made under another adapter is refused.

        Args:
            adapter: a file that `himix adapter` wrote, or an opened one; None: the model as it was exported.

        Raises:
            InputError: the bundle takes no adapters, the file is damaged, made for another model, or of a rank beyond
                the bundle's.
        """
        with self.lock:
            opened, factors = (None, None) if adapter is None else self._room.open(adapter)
            if factors is None and self.adapter is None:
                return
            self.owner = None
            as_adaptable(self.engine).use_adapter(no_adapter(self.config) if factors is None else factors)
            self.adapter, digest = opened, "" if opened is None else opened.image_digest(self.config)
            self.model_id = f"{self._weights_id}{ADAPTED}{digest}" if digest else self._weights_id

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

    def encode_image(self, image: Image, bits: int = FLOAT_BITS) -> ImageKV:
        """An image's keys and values, to be used under any prompt; see `himix_edge.preprocess.ImageSource`.

        Args:
            image: it.
            bits: of what is kept, 32, 16 or 8, see `ImageKV.in_bits`.

        Raises:
            InputError: it cannot be read as an image, or the model has no vision tower; as `ImageKV.in_bits`.
        """
        return self.encode_images([image], bits)

    def encode_images(self, images: Sequence[Image], bits: int = FLOAT_BITS) -> ImageKV:
        """Several images' keys and values, joined along N; `self.stats` has the times of the image stages.

        Raises:
            InputError: as `encode_image`; also several images for a vanilla model, which takes one, and ImageKVs that
                another model made.
        """
        stats = self.stats = Stats()
        return self.vision(images, stats).in_bits(bits)

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
    ) -> Answer:
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
    ) -> Chat:
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
        images = as_images(image)
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
        fits = (*image.shape[:2], image.shape[3]) == (
            self.config.num_vision_rows, decoder.num_key_value_heads, decoder.head_dim,
        )  # fmt: skip
        if fits and image.model_id == model_id and image.tokens > self.capacity:
            raise InputError(f"this ImageKV fills {image.tokens} cache slots; the model has {self.capacity}")
        position = self.config.first_text_position(image.tokens)
        if image.model_id != model_id or not fits or image.next_position != position:
            by = "by another model"
            if fits and image.model_id != model_id and _weights_of(image.model_id) == self._weights_id:
                same = image.model_id.partition("+")[0] == self.model_id
                by = "behind another system message" if same else "under another adapter"
            raise InputError(
                f"this ImageKV was made {by} ({image.model_id or 'unknown'}, this one is {model_id}); "
                "encode the image again"
            )
        return image

    def _encode(self, image: ImageSource, stats: Stats) -> ImageKV:
        if self.config.vision is None:
            raise InputError("this model has no vision tower; it takes no images")
        clock = Clock()
        pixels = load_image(image, self.config.vision.image_size, self.config.vision.resample)
        stats.preprocess += clock.lap()
        with self.lock:
            features = self.engine.encode(pixels)
            stats.vision_encoder += clock.lap()
            key, value = self.engine.inject(features)
            stats.vision_injector += clock.lap()
            model_id = self.model_id  # another thread may change the adapter
        return ImageKV(key, value, model_id, self.config.first_text_position(key.shape[2]))

    def _read(self, images: Sequence[Image], stats: Stats, system: str | None) -> ImageKV:
        if len(images) == 1 and isinstance(images[0], ImageKV):
            return self._checked(images[0], system)
        sources = [image for image in images if not isinstance(image, ImageKV)]
        if len(sources) < len(images):
            raise InputError("this model reads its pictures one behind the other; give all of them as pictures")
        vision, layout = self.config.vision, self.config.images
        assert vision is not None
        assert layout is not None
        clock = Clock()
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
            model_id = picture_model_id(self.model_id, system)
        return ImageKV(key, value, model_id, key.shape[2])


def _weights_of(model_id: str) -> str:
    """A model_id without an adapter's part, and without that of a system message behind which pictures were read."""
    return model_id.partition("+")[0].partition(ADAPTED)[0]
