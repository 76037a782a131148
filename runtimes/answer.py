"""One answer, piece by piece, as it is read."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from himix_edge.errors import InputError
from himix_edge.runtimes.stats import Stats

if TYPE_CHECKING:
    from himix_edge.runtimes.chat import Chat


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
