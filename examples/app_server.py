"""A model behind HTTP, with nothing but the standard library: what an app's own server may look like.

    python examples/app_server.py bundles/nano-onnx-int8 --port 8080
    curl --data-binary @photo.png http://localhost:8080/images                     # {"image": ID, "tokens": N}
    curl --json '{"image": ID, "prompt": "What is it?"}' http://localhost:8080/answers

A picture is turned into keys and values once and kept under the hash of its bytes, the least recently used one dropped
first. Answers are one at a time: a session has one cache. It listens on this machine only.
"""

import argparse
import hashlib
import json
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import himix_edge as hx

MAX_BODY = 32 << 20  # bytes of a request
KEPT = 64  # pictures


class Service:
    """A session and the pictures that it has seen."""

    def __init__(self, session: hx.Session):
        self._session, self._lock = session, threading.Lock()
        self._images: OrderedDict[str, hx.ImageKV] = OrderedDict()

    def keep(self, content: bytes) -> dict[str, Any]:
        """Encode a picture unless it is known."""
        name = hashlib.sha256(content).hexdigest()[:32]
        with self._lock:
            if name not in self._images:
                self._images[name] = self._session.encode_image(content)
            self._images.move_to_end(name)
            while len(self._images) > KEPT:
                self._images.popitem(last=False)
            return {"image": name, "tokens": self._images[name].tokens}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask about a kept picture, or without one."""
        with self._lock:
            image = self._images[request["image"]] if "image" in request else None
            text = self._session.answer(request["prompt"], image)
            return {"answer": text, "ttft_ms": round(self._session.stats.ttft, 2)}


class Handler(BaseHTTPRequestHandler):
    """POST /images and /answers."""

    service: Service
    timeout = 30  # seconds that a client may be silent

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", "-1"))
            if not 0 <= length <= MAX_BODY:
                return self._send(413, {"error": f"a body of up to {MAX_BODY >> 20} MiB, with its Content-Length"})
            body = self.rfile.read(length)
            if self.path == "/images":
                return self._send(200, self.service.keep(body))
            if self.path == "/answers":
                return self._send(200, self.service.answer(json.loads(body)))
            return self._send(404, {"error": "POST /images or /answers"})
        except hx.HimixError as error:
            return self._send(400, {"error": str(error)})
        except (ValueError, KeyError, TypeError) as error:
            return self._send(400, {"error": f"not a request that this server knows ({error!r})"})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    Handler.service = Service(hx.open_bundle(arguments.bundle))
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    print(f"http://localhost:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
