"""The bodies of answers, as OpenAI's clients read them."""

import json
import time
import uuid
from collections.abc import Iterable

from himix_edge.reading import JsonObject
from himix_edge.runtimes import Piece, Stats
from himix_edge.serving.answering import Ended, Event, Said
from himix_edge.text import TextProcessor

REASONS = {"stop": "stop", "length": "length", "timeout": "length"}  # the API has no word for the last

LEAST = -9999.0  # what the API has for a share of nothing, which JSON has no number for


class Reply:
    """One completion's bodies: whole, or in chunks."""

    def __init__(self, model: str, text: TextProcessor, with_logprobs: bool):
        self._text, self._with_logprobs = text, with_logprobs
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, events: Iterable[Event]) -> JsonObject:
        """The body of an answer that is not streamed."""
        said: dict[int, list[Piece]] = {}
        ended: dict[int, Stats] = {}
        for event in events:
            if isinstance(event, Said):
                said.setdefault(event.choice, []).append(event.piece)
            else:
                ended[event.choice] = event.stats
        choices = [
            {"index": choice, "finish_reason": REASONS[stats.finish_reason],
             "message": {"role": "assistant", "refusal": None,
                         "content": "".join(piece.text for piece in said.get(choice, ()))},
             "logprobs": self._logprobs(said.get(choice, ()))}
            for choice, stats in ended.items()
        ]  # fmt: skip
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(ended.values())}

    def first(self, choice: int) -> bytes:
        """The chunk that opens a choice."""
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def shows(self, event: Said) -> bool:
        """Whether a piece is worth a chunk."""
        return bool(event.piece.text) or (self._with_logprobs and event.piece.token_id is not None)

    def chunk(self, event: Event) -> bytes:
        """A piece, or the end of a choice."""
        if isinstance(event, Ended):
            return self._chunk(event.choice, {}, REASONS[event.stats.finish_reason])
        return self._chunk(event.choice, {"content": event.piece.text}, logprobs=self._logprobs([event.piece]))

    def last(self, ended: Iterable[Stats]) -> bytes:
        """What a stream ends with if its usage was asked for."""
        return data({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(ended)})

    def _chunk(
        self, choice: int, delta: JsonObject, reason: str | None = None, logprobs: JsonObject | None = None
    ) -> bytes:
        part = {"index": choice, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        return data({**self._head, "object": "chat.completion.chunk", "choices": [part]})

    def _logprobs(self, pieces: Iterable[Piece]) -> JsonObject | None:
        """Each token's, if they were asked for. Text that was held back is in the piece that completes it."""
        if not self._with_logprobs:
            return None
        tokens = [
            {**self._token(piece.token_id, piece.log_probability or 0.0),
             "top_logprobs": [self._token(token, share) for token, share in piece.alternatives]}
            for piece in pieces if piece.token_id is not None
        ]  # fmt: skip
        return {"content": tokens, "refusal": None}

    def _token(self, token: int, share: float) -> JsonObject:
        text = self._text.decode([token])
        return {"token": text, "logprob": max(share, LEAST), "bytes": None if "\ufffd" in text else list(text.encode())}


def usage(ended: Iterable[Stats]) -> JsonObject:
    """Tokens that were read, an image's among them, and answered. `cached_tokens` needed no computing."""
    stats = list(ended)
    if not stats:
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    read, made = stats[0].prompt_tokens + stats[0].vision_tokens, sum(each.new_tokens for each in stats)
    return {
        "prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": stats[0].cached_tokens},
    }  # fmt: skip


def data(value: JsonObject) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
