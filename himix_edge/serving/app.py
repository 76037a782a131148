"""The addresses of the server, who may use them, and how large and slow a request may be."""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from himix_edge.errors import HimixError
from himix_edge.reading import JsonObject
from himix_edge.runtimes import SessionPool, Stats
from himix_edge.serving.answering import Ended, Event, Question, Said, answer
from himix_edge.serving.desk import Desk, Job, Left
from himix_edge.serving.images import ImageStore
from himix_edge.serving.metrics import Metrics
from himix_edge.serving.pictures import read_picture
from himix_edge.serving.refusals import Refused, busy
from himix_edge.serving.replies import DONE, Reply, data
from himix_edge.serving.requests import ChatRequest, conversation, read_chat_request
from himix_edge.text import Message

Report = Callable[[BaseException], None]
Endpoint = Callable[[Request], Awaitable[ASGIApp]]
BODY_SECONDS = 30  # that a request's body may take
SEND_SECONDS = 30  # that a client may leave a piece unread
BODIES_AT_ONCE = 8  # as many of the largest may be in memory
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
PAGE = {"/": "index.html", "/page.js": "page.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
LEFT = 499  # what the metrics call a request whose client left


@dataclass(frozen=True)
class Limits:
    """How much one request may take.

    Attributes:
        body_bytes: of its body.
        seconds: from its body to the end of its answer, the queue included.
        waiting: how many may wait for a session of a model.
        pictures: in one conversation.
    """

    body_bytes: int = 32 << 20
    seconds: float = 120.0
    waiting: int = 64
    pictures: int = 16


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    Attributes:
        key: without it nothing is answered; None: nobody needs one.
        names: of this machine, that a request's Host header may have beside an address; None: any.
        image_folder: that file URLs may lead into; None: nowhere.
    """

    key: str | None = None
    names: frozenset[str] | None = frozenset({"localhost"})
    image_folder: Path | None = None


class Server:
    """What the addresses share."""

    def __init__(
        self,
        models: dict[str, SessionPool],
        images: ImageStore,
        metrics: Metrics,
        limits: Limits,
        access: Access,
        report: Report,
    ):
        """`report` writes down an error that nobody expected."""
        self._models, self._images, self._metrics = models, images, metrics
        self._limits, self._access, self._report = limits, access, report
        self._desks = {name: Desk(pool, limits.waiting, partial(self._count, name)) for name, pool in models.items()}
        self._started, self._bytes = int(time.time()), 0

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
            Route("/v1/models", self._guarded(self.list_models)),
            Route("/v1/models/{name:path}", self._guarded(self.one_model)),
            Route("/metrics", self._guarded(self.show_metrics)),
            Route("/health", self._guarded(self.health, open_to_all=True)),
            *(Route(path, self._guarded(_page(name), open_to_all=True)) for path, name in PAGE.items()),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_address}, lifespan=self._lifespan)

    async def chat(self, request: Request) -> ASGIApp:
        """POST /v1/chat/completions."""
        began, label = time.monotonic(), "-"
        held = _Held(self)
        try:
            body = await held.read(request, self._limits.body_bytes)
            wanted = await asyncio.to_thread(read_chat_request, body)
            desk = self._desks.get(wanted.model)
            if desk is None:
                raise _unknown(wanted.model, self._models)
            label = wanted.model
            question = await asyncio.to_thread(self._question, wanted)
            return await self._answered(request, wanted, question, desk, began, held)
        except Refused as refused:
            self._metrics.requests.labels(label, refused.status).inc()
            raise
        except (Left, ClientDisconnect):
            self._metrics.requests.labels(label, LEFT).inc()
            return Response(status_code=LEFT)
        except HimixError as error:
            self._metrics.requests.labels(label, 400).inc()
            raise Refused(400, str(error)) from None
        finally:
            held.release()

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self._models]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = request.path_params["name"]
        if name not in self._models:
            raise _unknown(name, self._models)
        return JSONResponse(self._described(name))

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, request: Request) -> Response:
        """GET /health."""
        waiting = {name: desk.waiting for name, desk in self._desks.items()}
        return JSONResponse({"status": "ok", "waiting": waiting})

    async def _answered(
        self, request: Request, wanted: ChatRequest, question: Question, desk: Desk, began: float, held: "_Held"
    ) -> ASGIApp:
        deadline = began + self._limits.seconds
        images = self._images
        job = desk.start(lambda session, stop, emit: answer(session, question, images, stop, deadline, emit), deadline)
        watcher = asyncio.create_task(_watch(request, job))
        text = self._models[wanted.model].sessions[0].text
        reply = Reply(wanted.model, text, bool(wanted.logprobs))
        events = self._seen(job, wanted.model, began)
        streamed = False
        try:
            if wanted.stream:
                first = await anext(events, None)  # what is wrong with a request has a status of its own
                streamed = True
                usage = wanted.stream_options is not None and wanted.stream_options.include_usage
                chunks = _chunks(first, events, reply, usage, self._report)
                return EventStream(chunks, partial(_finish, job, watcher, held.keep()))
            return JSONResponse(reply.whole([event async for event in events]))
        finally:
            if not streamed:
                _finish(job, watcher)

    async def _seen(self, job: Job, model: str, began: float) -> AsyncIterator[Event]:
        """The events of a job, counted."""
        metrics, spoke = self._metrics, False
        try:
            while (event := await job.next_event()) is not None:
                if isinstance(event, Said) and event.piece.text and not spoke:
                    metrics.first_token.labels(model).observe(time.monotonic() - began)
                    spoke = True
                if isinstance(event, Ended):
                    metrics.prompt_tokens.labels(model).inc(event.stats.prompt_tokens)
                    metrics.cached_tokens.labels(model).inc(event.stats.cached_tokens)
                    metrics.new_tokens.labels(model).inc(event.stats.new_tokens)
                yield event
        except Left:
            metrics.cancelled.labels(model).inc()
            raise
        metrics.requests.labels(model, 200).inc()
        metrics.seconds.labels(model).observe(time.monotonic() - began)

    def _question(self, wanted: ChatRequest) -> Question:
        """A request with its pictures. Raises Refused for one that cannot be had."""
        system, said = conversation(wanted)
        urls = [url for message in said for url in message.pictures]
        if len(urls) > self._limits.pictures:
            raise Refused(
                400, f"messages: {len(urls)} pictures; {self._limits.pictures} are the most", parameter="messages"
            )
        return Question(
            system, tuple(Message(each.role, each.text) for each in said[:-1]), said[-1].text,
            tuple(read_picture(url, self._access.image_folder) for url in urls), wanted.n or 1, wanted.limit,
            wanted.temperature, wanted.top_p, None if wanted.seed is None else wanted.seed % (1 << 64),
            tuple(wanted.stops), wanted.alternatives, wanted.structure,
        )  # fmt: skip

    def _described(self, name: str) -> JsonObject:
        session = self._models[name].sessions[0]
        return {
            "id": name, "object": "model", "created": self._started, "owned_by": "himix-edge",
            "context_capacity": session.capacity, "images": session.config.vision is not None,
        }  # fmt: skip

    def _count(self, name: str, desk: Desk) -> None:
        self._metrics.waiting.labels(name).set(desk.waiting)
        self._metrics.running.labels(name).set(desk.running)

    def _guarded(self, endpoint: Endpoint, open_to_all: bool = False) -> Endpoint:
        """With the checks of who asks, and every error as a body that clients read."""

        async def checked(request: Request) -> ASGIApp:
            try:
                self._check_host(request)
                if not open_to_all:
                    self._check_key(request)
                return await endpoint(request)
            except Refused as refused:
                return JSONResponse(refused.body, refused.status, refused.headers)
            except Exception as error:
                return JSONResponse(_bug(error, self._report), 500)

        return checked

    def _check_host(self, request: Request) -> None:
        """A page of another site, whose name was made to lead here (DNS rebinding), gets nothing."""
        if self._access.names is None:
            return
        given = request.headers.getlist("host")
        found = HOST.fullmatch(given[0]) if len(given) == 1 else None
        host = found[1].strip("[]").lower().removesuffix(".") if found else ""
        if host not in self._access.names and not _is_address(host):
            raise Refused(421, "the Host header does not name this machine")

    def _check_key(self, request: Request) -> None:
        if self._access.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._access.key.encode())
        if scheme.lower() != "bearer" or not same:
            raise Refused(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for desk in self._desks.values():
                desk.close()
            self._images.close()


class _Held:
    """The bytes of a request that are in memory until it is answered."""

    def __init__(self, server: Server):
        self._server, self._bytes = server, 0

    async def read(self, request: Request, most: int) -> bytes:
        """The body. Raises Refused for one that is no JSON, too large, or too slow."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "Content-Type must be application/json")
        too_large = Refused(413, f"the body is larger than {most >> 20} MiB")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    if len(content) + len(chunk) > most:
                        raise too_large
                    if self._server._bytes + len(chunk) > BODIES_AT_ONCE * most:
                        raise busy("too many large requests at once; try again later", 503)
                    self._server._bytes += len(chunk)
                    self._bytes += len(chunk)
                    content += chunk
        except TimeoutError:
            raise Refused(408, f"the body did not come in {BODY_SECONDS} s", code="timeout") from None
        return bytes(content)

    def keep(self) -> "_Held":
        """Somebody else releases them."""
        other = _Held(self._server)
        other._bytes, self._bytes = self._bytes, 0
        return other

    def release(self) -> None:
        """They are gone."""
        self._server._bytes -= self._bytes
        self._bytes = 0


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


async def _chunks(
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
    except Exception as error:
        yield data(_bug(error, report))
        return
    if usage:
        yield reply.last(ended)
    yield DONE


def _finish(job: Job, watcher: "asyncio.Task[None]", held: _Held | None = None) -> None:
    """Whatever became of it: nobody listens any more."""
    job.cancel()
    watcher.cancel()
    if held is not None:
        held.release()


async def _watch(request: Request, job: Job) -> None:
    """End a job when its client leaves; the body was read, so nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def _page(name: str) -> Endpoint:
    content = files("himix_edge").joinpath("assets", "serve", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    async def page(request: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=kind)

    return page


def _bug(error: Exception, report: Report) -> JsonObject:
    report(error)
    return Refused(500, f"an unexpected {type(error).__name__}; the server wrote it down", "server_error").body


def _no_such_address(request: Request, error: Exception) -> Response:
    """404 and 405, in the words of the API."""
    assert isinstance(error, HTTPException)
    path = json.dumps(request.url.path[:60])
    message = f"{request.method} {path}: this server has POST /v1/chat/completions, GET /v1/models, /health, /metrics"
    return JSONResponse(Refused(error.status_code, message).body, error.status_code, error.headers)


def _unknown(name: str, known: dict[str, SessionPool]) -> Refused:
    return Refused(
        404, f"model {name!r:.60} is not served here; there is {', '.join(known)}", parameter="model",
        code="model_not_found",
    )  # fmt: skip


def _is_address(host: str) -> bool:
    """An address cannot be made to lead here: it is what the client connected to."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
