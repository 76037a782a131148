"""Answers as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from starlette.types import Receive, Scope, Send

from himix_edge.errors import HimixError
from himix_edge.reading import JsonObject
from himix_edge.runtimes import Stats
from himix_edge.serving.answering import Ended, Event, Said
from himix_edge.serving.desk import Left
from himix_edge.serving.refusals import Refused
from himix_edge.serving.replies import DONE, Reply, data

Report = Callable[[BaseException], None]
SEND_SECONDS = 30  # that a client may leave a piece unread


class EventStream:
    """Server-sent events, until they end or the client has gone or reads nothing."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], finish: Callable[[], None]):
        self._chunks, self._finish = chunks, finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for chunk in self._chunks:
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                await asyncio.wait_for(send(message), SEND_SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (Left, OSError, TimeoutError):
            pass  # nobody listens
        finally:
            self._finish()
            await self._chunks.aclose()


async def chunks(
    first: Event | None,
    events: AsyncIterator[Event],
    reply: Reply,
    usage: bool,
    report: Report,
) -> AsyncGenerator[bytes, None]:
    """What a stream sends. An error that comes in its middle is its last event."""
    opened: set[int] = set()
    ended: list[Stats] = []
    event = first
    try:
        while event is not None:
            if event.choice not in opened:
                opened.add(event.choice)
                yield reply.first(event.choice)
            if isinstance(event, Ended):
                ended.append(event.stats)
            if not isinstance(event, Said) or reply.shows(event):
                yield reply.chunk(event)
            event = await anext(events, None)
    except Left:
        raise
    except (Refused, HimixError) as error:
        yield data(error.body if isinstance(error, Refused) else Refused(400, str(error)).body)
        return
    except Exception as error:  # a bug in mid-stream, where the status is sent already
        yield data(bug(error, report))
        return
    if usage:
        yield reply.last(ended)
    yield DONE


def bug(error: Exception, report: Report) -> JsonObject:
    """The body for an error that nobody expected, which is written down."""
    report(error)
    return Refused(500, f"an unexpected {type(error).__name__}; the server wrote it down", "server_error").body
