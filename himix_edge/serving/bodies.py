"""Bodies of requests: how large, how slow, and how many of them in memory at once."""

import asyncio

from starlette.requests import Request

from himix_edge.serving.refusals import Refused, busy

BODY_SECONDS = 30  # that a request's body may take
BODIES_AT_ONCE = 8  # as many of the largest may be in memory


class Bodies:
    """All that are in memory.

    Attributes:
        most: bytes that one may have.
        held: bytes of all.
    """

    def __init__(self, most: int):
        self.most, self.held = most, 0


class Body:
    """The bytes of one that are in memory until it is answered."""

    def __init__(self, bodies: Bodies):
        self._bodies, self._bytes = bodies, 0

    async def read(self, request: Request) -> bytes:
        """The body. Raises Refused for one that is no JSON, too large, or too slow."""
        most = self._bodies.most
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
                    if self._bodies.held + len(chunk) > BODIES_AT_ONCE * most:
                        raise busy("too many large requests at once; try again later", 503)
                    self._bodies.held += len(chunk)
                    self._bytes += len(chunk)
                    content += chunk
        except TimeoutError:
            raise Refused(408, f"the body did not come in {BODY_SECONDS} s", code="timeout") from None
        return bytes(content)

    def keep(self) -> "Body":
        """Somebody else releases them."""
        other = Body(self._bodies)
        other._bytes, self._bytes = self._bytes, 0
        return other

    def release(self) -> None:
        """They are gone."""
        self._bodies.held -= self._bytes
        self._bytes = 0
