"""A bundle's engine behind two pipes, for the Swift tests: the Core ML program in the reference interpreter.

Usage: python ios_demo/testing/engine_server.py BUNDLE FOLDER

FOLDER has the named pipes `requests` and `replies` and the folder `exchange`. A message is a line of JSON and, after
it, as many bytes as its "bytes" says: uint8 pixels, int32 tokens or float32 numbers, little-endian.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from himix_edge.errors import HimixError
from himix_edge.runtimes import ImageKV, open_bundle
from himix_edge.runtimes.bench.record import read_records


class Server:
    def __init__(self, bundle: Path, exchange: Path):
        self.engine = open_bundle(bundle).engine
        self.exchange = exchange

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        while line := requests.readline():
            call = json.loads(line)
            body = requests.read(call["bytes"])
            try:
                arrays, facts = getattr(self, f"do_{call['call']}")(call, body)
            except HimixError as error:
                arrays, facts = [], {"error": str(error)}
            data = b"".join(np.ascontiguousarray(array, np.float32).tobytes() for array in arrays)
            head = {**facts, "shapes": [array.shape for array in arrays], "bytes": len(data)}
            replies.write(json.dumps(head).encode() + b"\n" + data)
            replies.flush()

    def do_describe(self, call: dict[str, Any], body: bytes) -> Any:
        return [], {"capacity": self.engine.capacity}

    def do_encode(self, call: dict[str, Any], body: bytes) -> Any:
        pixels = np.frombuffer(body, np.uint8).reshape(1, call["side"], call["side"], 3)
        return [self.engine.encode(pixels)], {}

    def do_inject(self, call: dict[str, Any], body: bytes) -> Any:
        return list(self.engine.inject(np.frombuffer(body, np.float32).reshape(call["shape"]))), {}

    def do_start(self, call: dict[str, Any], body: bytes) -> Any:
        key, value = np.frombuffer(body, np.float32).reshape(2, *call["shape"])
        self.engine.start(key, value, call["position"])
        return [], {}

    def do_step(self, call: dict[str, Any], body: bytes) -> Any:
        return [self.engine.step(np.frombuffer(body, np.int32).astype(np.int64))], {}

    def do_read_image_kv(self, call: dict[str, Any], body: bytes) -> Any:
        """What Python finds in a file that Swift wrote."""
        image = ImageKV.load(self.exchange / call["file"])
        facts = {"model_id": image.model_id, "next_position": image.next_position}
        return [image.key, image.value], facts

    def do_read_records(self, call: dict[str, Any], body: bytes) -> Any:
        """Whether Python reads a benchmark record that Swift wrote, and what it says."""
        (record,) = read_records(self.exchange / call["file"])
        return [], {
            "verdict": record.verdict, "manifest": record.bundle.manifest_sha256, "ttft": len(record.samples.ttft),
            "digests": [answer.token_ids_sha256 for answer in record.answers],
            "prompts": [answer.prompt for answer in record.answers],
        }  # fmt: skip

    def do_sha256(self, call: dict[str, Any], body: bytes) -> Any:
        return [], {"sha256": sha256(body).hexdigest()}


def main(bundle: Path, folder: Path) -> None:
    server = Server(bundle, folder / "exchange")
    with (folder / "requests").open("rb") as requests, (folder / "replies").open("wb") as replies:
        server.serve(requests, replies)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
