"""Serve the page and bundles on this machine, with the headers that give it threads and exact clocks.

    python web_demo/serve.py bundles/nano-onnx_portable-int8 [MORE ...] [--port 8000] [--host 127.0.0.1]

Each bundle is at bundles/NAME/ beside the page; bundles/index.json lists them. A plain web server does as well, if it
sends the headers below; without them the page computes on one thread.

Only requests that name this machine are answered (localhost, an address, this machine's name, --host): a page of
another site, whose name was made to lead here (DNS rebinding), gets nothing.
"""

import argparse
import ipaddress
import json
import re
import socket
import stat
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote_to_bytes

PAGE = Path(__file__).resolve().parent
SERVED = ("index.html", "style.css", "manifest.webmanifest", "icon.svg", "icon-180.png", "icon-192.png",
          "icon-512.png", "src", "node_modules")  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # of a bundle: it stands in the page's addresses
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
SECONDS = 30  # that a client may keep a connection waiting
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of the page's own files and of the bundles; everything else is an answer with a 4xx or 5xx code."""

    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    extensions_map: ClassVar[dict[str, str]] = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: object, bundles: dict[str, Path], hosts: frozenset[str], **kwargs: object):
        self._bundles, self._hosts = bundles, hosts
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, with_content: bool) -> None:
        if not self._names_this_machine():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "Another machine's name")
        elif self._parts() == ["bundles", "index.json"]:
            content = json.dumps(list(self._bundles)).encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                self.wfile.write(content)
        elif with_content:
            super().do_GET()
        else:
            super().do_HEAD()

    def translate_path(self, path: str) -> str:
        """The file behind a URL; a path that leads nowhere for one that is not served."""
        found = self._file()
        return str(PAGE / "no such file" if found is None else found)

    def _file(self) -> Path | None:
        parts = self._parts()
        if parts is None:
            return None
        parts = parts or ["index.html"]
        if len(parts) > 2 and parts[0] == "bundles" and parts[1] in self._bundles:
            root, parts = self._bundles[parts[1]], parts[2:]
        elif parts[0] in SERVED:
            root = PAGE
        else:
            return None
        try:
            file = root.joinpath(*parts).resolve()
            regular = stat.S_ISREG(file.stat().st_mode)  # no pipe, which might never end
        except (OSError, ValueError, RuntimeError):  # too long a name, links in a circle
            return None
        return file if regular and file.is_relative_to(root) else None

    def _parts(self) -> list[str] | None:
        """The names that the request's path consists of; None for one that is no plain path of this server."""
        target = self.path.partition("?")[0].partition("#")[0]
        try:
            path = unquote_to_bytes(target).decode()
        except UnicodeDecodeError:
            return None
        parts = [part for part in path.split("/") if part]
        plain = target.startswith("/") and path.isprintable() and "\\" not in path and not {".", ".."} & set(parts)
        return parts if plain else None

    def _names_this_machine(self) -> bool:
        """Whether the Host header, of which there must be one, is an address or one of this machine's names."""
        given = self.headers.get_all("Host") or []
        found = (
            re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", given[0]) if len(given) == 1 else None
        )
        if found is None:
            return False
        host = found[1].strip("[]").lower().removesuffix(".")
        return host in self._hosts or _is_address(host)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Only what went wrong: `log_error` calls this as well as every request does."""
        if format != '"%s" %s %s':
            super().log_message(format, *args)


class Server(ThreadingHTTPServer):
    """One thread a connection; a client that leaves in the middle is nobody's error."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: partial[Handler]):
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"{client_address}: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)


def main() -> int:
    """Serve until interrupted. Returns the exit code: 2 for a folder that is no bundle, or a port that is taken."""
    parser = argparse.ArgumentParser(description="Serve the browser demo.")
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folder of an onnx_portable bundle")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default 8000)")
    arguments = parser.parse_args()
    try:
        server = _server(arguments.bundles, arguments.host, arguments.port)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        print(f"http://localhost:{server.server_port}/  (Ctrl+C ends it)", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    except OSError as error:  # nobody reads what is printed
        print(error.strerror, file=sys.stderr)
        return 2
    return 0


def _server(folders: list[Path], host: str, port: int) -> Server:
    """Raises ValueError with a line for what is wrong: a folder, the npm packages, the address."""
    bundles: dict[str, Path] = {}
    for folder in folders:
        try:
            place = folder.resolve()
            held = (place / "manifest.json").is_file()
        except (OSError, ValueError, RuntimeError):
            held = False
        if not held:
            raise ValueError(f"{folder!s:.200}: no manifest.json; himix export --target onnx_portable makes a bundle")
        if not NAME.fullmatch(place.name):
            raise ValueError(f"{place.name!r}: no name for an address; rename it: letters, digits, '.', '_' and '-'")
        if bundles.setdefault(place.name, place) != place:
            raise ValueError(f"{place} and {bundles[place.name]}: two bundles of one name; rename one")
    if not (PAGE / "node_modules" / "onnxruntime-web").is_dir():
        raise ValueError(f"{PAGE}: npm packages are missing; run `make web`, or `npm install` in that folder")
    hosts = frozenset(
        {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local", host.lower()}
    )
    try:
        return Server((host, port), partial(Handler, bundles=bundles, hosts=hosts))
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{host}, port {port}: {reason}; give another with --port (make web PORT=...)") from None


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r:.50}: a port is a number from 0 to 65535")
    return int(text)


def _is_address(host: str) -> bool:
    """An address cannot be made to lead here: it is what the browser connected to."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
