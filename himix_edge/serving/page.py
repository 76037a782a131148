"""The page to try it: files of this package."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

PAGE = {"/": "index.html", "/page.js": "page.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_file(name: str) -> Callable[[Request], Awaitable[Response]]:
    """What answers with a file of the page."""
    content = files("himix_edge").joinpath("assets", "serve", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    async def page(request: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=kind)

    return page
