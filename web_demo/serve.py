"""Serve the page and bundles on this machine, with the headers that give it threads and exact clocks.

    python web_demo/serve.py bundles/nano-onnx_portable-int8 [MORE ...] [--port 8000] [--host 127.0.0.1]

Each bundle is at bundles/NAME/ beside the page; bundles/index.json lists them. A plain web server does as well, if it
sends the headers below; without them the page computes on one thread.
"""

import argparse
import json
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

PAGE = Path(__file__).resolve().parent
SERVED = ("index.html", "style.css", "icon.svg", "src", "node_modules")
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
    """GET and HEAD of the page's own files and of the bundles; everything else is 404."""

    protocol_version = "HTTP/1.1"
    extensions_map: ClassVar[dict[str, str]] = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: object, bundles: dict[str, Path], **kwargs: object):
        self._bundles = bundles
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self._parts() == ["bundles", "index.json"]:
            content = json.dumps(list(self._bundles)).encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        """The file behind a URL; a path that leads nowhere for one that is not served."""
        parts = self._parts() or ["index.html"]
        nowhere = str(PAGE / "no such file")
        if ".." in parts:
            return nowhere
        if len(parts) > 2 and parts[0] == "bundles" and parts[1] in self._bundles:
            root, parts = self._bundles[parts[1]], parts[2:]
        elif parts[0] in SERVED:
            root = PAGE
        else:
            return nowhere
        file = root.joinpath(*parts).resolve()
        return str(file) if file.is_relative_to(root) and file.is_file() else nowhere

    def _parts(self) -> list[str]:
        return [part for part in unquote(urlsplit(self.path).path).split("/") if part]

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Only what went wrong: `log_error` calls this as well as every request does."""
        if format != '"%s" %s %s':
            super().log_message(format, *args)


def main() -> int:
    """Serve until interrupted. Returns the exit code: 2 for a folder that is no bundle, or a port that is taken."""
    parser = argparse.ArgumentParser(description="Serve the browser demo.")
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folder of an onnx_portable bundle")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    arguments = parser.parse_args()
    bundles = {folder.resolve().name: folder.resolve() for folder in arguments.bundles}
    for folder in bundles.values():
        if not (folder / "manifest.json").is_file():
            print(f"{folder}: no manifest.json; himix export --target onnx_portable makes a bundle", file=sys.stderr)
            return 2
    if not (PAGE / "node_modules" / "onnxruntime-web").is_dir():
        print(f"{PAGE}: npm packages are missing; run `make web`, or `npm install` in that folder", file=sys.stderr)
        return 2
    try:
        server = ThreadingHTTPServer((arguments.host, arguments.port), partial(Handler, bundles=bundles))
    except OSError as error:
        print(f"port {arguments.port}: {error.strerror}; give another with --port (make web PORT=...)", file=sys.stderr)
        return 2
    print(f"http://localhost:{server.server_port}/  (Ctrl+C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
