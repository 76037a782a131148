"""A coreml bundle's programs behind two pipes, for the Swift tests, in the reference interpreter.

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

from himix_edge.bench.facts import bundle_facts
from himix_edge.bench.record import read_records
from himix_edge.errors import HimixError
from himix_edge.runtimes import ImageKV, open_bundle


class Server:
    def __init__(self, bundle: Path, exchange: Path):
        engine: Any = open_bundle(bundle).engine
        self.programs = engine._models  # one call at a time: what calls them in which order is the app's
        self.bundle, self.exchange = bundle, exchange

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

    def do_encode(self, call: dict[str, Any], body: bytes) -> Any:
        pixels = np.frombuffer(body, np.uint8).reshape(1, call["side"], call["side"], 3)
        return [self.programs.encode(pixels)], {}

    def do_inject(self, call: dict[str, Any], body: bytes) -> Any:
        return list(self.programs.inject(_floats(body, call["shape"]))), {}

    def do_write(self, call: dict[str, Any], body: bytes) -> Any:
        self.programs.write_state(call["state"], _floats(body, call["shape"]))
        return [], {}

    def do_decode(self, call: dict[str, Any], body: bytes) -> Any:
        inputs = {name: np.array([call[name]], np.int32) for name in ("start", "position", "last")}
        inputs["input_ids"] = np.frombuffer(body, np.int32)[None].copy()
        return [self.programs.decode(call["function"], inputs)], {}

    def do_read_image_kv(self, call: dict[str, Any], body: bytes) -> Any:
        """What Python finds in a file that Swift wrote."""
        image = ImageKV.load(self.exchange / call["file"])
        facts = {"model_id": image.model_id, "next_position": image.next_position}
        return [image.key, image.value], facts

    def do_read_records(self, call: dict[str, Any], body: bytes) -> Any:
        """Whether Python reads a benchmark record that Swift wrote, and what it says."""
        (record,) = read_records(self.exchange / call["file"])
        expected = bundle_facts(self.bundle)
        return [], {
            "verdict": record.verdict, "same_bundle": record.bundle.manifest_sha256 == expected.manifest_sha256,
            "same_bytes": record.bundle.bytes == expected.bytes, "samples": {
                name: len(values) for name, values in record.samples.model_dump().items()
            },
            "digests": [answer.token_ids_sha256 for answer in record.answers],
            "later": record.model_dump(include={"schema_version", "sustained", "energy", "unplugged"}),
            "sustained_s": record.settings.sustained_s, "runs": [answer.runs for answer in record.answers],
        }  # fmt: skip

    def do_sha256(self, call: dict[str, Any], body: bytes) -> Any:
        return [], {"sha256": sha256(body).hexdigest()}


def _floats(body: bytes, shape: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(body, np.float32).reshape(shape).copy()


def main(bundle: Path, folder: Path) -> None:
    server = Server(bundle, folder / "exchange")
    (folder / "ready").touch()  # the pipes open when the tests open them
    with (folder / "requests").open("rb") as requests, (folder / "replies").open("wb") as replies:
        server.serve(requests, replies)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
