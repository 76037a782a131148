"""The addresses of the server, and what a request may take."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from himix_edge.errors import HimixError
from himix_edge.reading import JsonObject
from himix_edge.runtimes import SessionPool
from himix_edge.serving.access import Access
from himix_edge.serving.answering import Ended, Event, Question, Said, answer
from himix_edge.serving.bodies import Bodies, Body
from himix_edge.serving.desk import Desk, Job, Left
from himix_edge.serving.images import ImageStore
from himix_edge.serving.metrics import Metrics
from himix_edge.serving.page import PAGE, page_file
from himix_edge.serving.pictures import read_picture
from himix_edge.serving.refusals import Refused
from himix_edge.serving.replies import Reply
from himix_edge.serving.requests import ChatRequest, conversation, read_chat_request
from himix_edge.serving.streaming import EventStream, Report, bug, chunks
from himix_edge.text import Message

Endpoint = Callable[[Request], Awaitable[ASGIApp]]
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
        self._started, self._bodies = int(time.time()), Bodies(limits.body_bytes)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
            Route("/v1/models", self._guarded(self.list_models)),
            Route("/v1/models/{name:path}", self._guarded(self.one_model)),
            Route("/metrics", self._guarded(self.show_metrics)),
            Route("/health", self._guarded(self.health, open_to_all=True)),
            *(Route(path, self._guarded(page_file(name), open_to_all=True)) for path, name in PAGE.items()),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_address}, lifespan=self._lifespan)

    async def chat(self, request: Request) -> ASGIApp:
        """POST /v1/chat/completions."""
        began, label = time.monotonic(), "-"
        body = Body(self._bodies)
        try:
            wanted = await asyncio.to_thread(read_chat_request, await body.read(request))
            desk = self._desks.get(wanted.model)
            if desk is None:
                raise _unknown(wanted.model, self._models)
            label = wanted.model
            question = await asyncio.to_thread(self._question, wanted)
            return await self._answered(request, wanted, question, desk, began, body)
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
            body.release()

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
        return JSONResponse({"status": "ok", "waiting": sum(desk.waiting for desk in self._desks.values())})

    async def _answered(
        self, request: Request, wanted: ChatRequest, question: Question, desk: Desk, began: float, body: Body
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
                made = chunks(first, events, reply, usage, self._report)
                return EventStream(made, partial(_finish, job, watcher, body.keep()))
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
                self._access.check_host(request)
                if not open_to_all:
                    self._access.check_key(request)
                return await endpoint(request)
            except Refused as refused:
                return JSONResponse(refused.body, refused.status, refused.headers)
            except Exception as error:  # a bug: it is written down, and the server answers others
                return JSONResponse(bug(error, self._report), 500)

        return checked

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for desk in self._desks.values():
                desk.close()
            self._images.close()


def _finish(job: Job, watcher: "asyncio.Task[None]", body: Body | None = None) -> None:
    """Whatever became of it: nobody listens any more."""
    job.cancel()
    watcher.cancel()
    if body is not None:
        body.release()


async def _watch(request: Request, job: Job) -> None:
    """End a job when its client leaves; the body was read, so nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


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
