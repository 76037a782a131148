"""Measuring a session: what a program that uses the session API gets, tokenising and decoding of text included."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from himix_edge.bench.job import Question
from himix_edge.bench.measuring import IMAGE_STAGES, Asked
from himix_edge.errors import InputError
from himix_edge.runtimes.chat import Chat
from himix_edge.runtimes.image_kv import Image, ImageKV, concat
from himix_edge.runtimes.session import Session


class SessionSubject:
    """See `Subject`; `kept` is an ImageKV."""

    def __init__(
        self,
        session: Session,
        new_tokens: int,
        depth_ids: Sequence[int] = (),
        vision_tokens: int | None = None,
        ignore_stop: bool = False,
    ):
        """The arguments as in `Job`. `ignore_stop` changes the session: no token ends its answers any more."""
        self._session, self._limit = session, new_tokens
        self._depth_ids, self._vision_tokens = list(depth_ids), vision_tokens
        if ignore_stop:
            session.text.stop_ids = frozenset()

    def ask(self, images: Sequence[str], kept: object, question: Question, first_only: bool) -> Asked:
        session = self._session
        if kept is None and self._vision_tokens is not None:
            kept = exactly(session.encode_images(list(images)), self._vision_tokens) if images else session.no_image()
        if kept is None:
            chat = _MeasuredChat(session, [Path(image) for image in images], question.ids)
        else:
            assert isinstance(kept, ImageKV)
            chat = _MeasuredChat(session, kept, question.ids)
        if self._depth_ids:
            chat.lengthen(self._depth_ids)
        began = time.perf_counter()
        tokens, text, ttft = [], "", 0.0
        for piece in chat.send(question.prompt, max_new_tokens=self._limit, temperature=0):
            if piece.token_id is not None:
                tokens.append(piece.token_id)
            text += piece.text
            if text and not ttft:
                ttft = (time.perf_counter() - began) * 1000
                if first_only:
                    break
        stats = session.stats
        times = {name: getattr(stats, name) for name in (*IMAGE_STAGES, "prefill")}
        # an answer without any text (a stop token at once, a random model) has its first "text" when it ends
        times["ttft"] = ttft or (time.perf_counter() - began) * 1000
        return Asked(times, stats.inter_token, tokens, text, chat.vision, stats.prompt_tokens, stats.vision_tokens)


class _MeasuredChat(Chat):
    """A chat whose prompt may be given as tokens and whose cache may be filled beforehand."""

    def __init__(self, session: Session, image: "Image | Sequence[Image] | None", ids: list[int] | None):
        super().__init__(session, image)
        self._ids = ids

    @property
    def vision(self) -> ImageKV:
        """The image's keys and values; known once something was said."""
        assert self._vision is not None
        return self._vision

    def lengthen(self, ids: list[int]) -> None:
        """Put tokens into the cache behind the image, as if they had been said before."""
        if self._vision is None:
            self._vision = self.session.vision(self._images, self.session.stats)
        self._feed(ids)

    def _encode(self, prompt: str) -> list[int]:
        return super()._encode(prompt) if self._ids is None else list(self._ids)


def exactly(image: ImageKV, tokens: int) -> ImageKV:
    """An image's keys and values repeated and cut to `tokens` slots: the cost of a larger or smaller image.

    Raises InputError for a vanilla model, whose image tokens have positions and cannot be repeated.
    """
    if tokens > image.tokens and image.next_position:
        raise InputError(
            f"a vanilla model's image cannot be repeated: it has {image.tokens} tokens with positions; sweep below that"
        )
    repeated = concat([image] * -(-tokens // image.tokens))
    key, value = (np.ascontiguousarray(tensor[:, :, :tokens]) for tensor in (repeated.key, repeated.value))
    return ImageKV(key, value, image.model_id, min(image.next_position, tokens))
