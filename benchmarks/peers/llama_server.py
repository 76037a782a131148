"""llama.cpp's HTTP server as a peer: a checkpoint's decoder as GGUF, with its vocabulary and chat template."""

import contextlib
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.peers.llama_cpp import write_source
from himix_edge.checkpoints.source import open_source
from himix_edge.text import TextProcessor

STARTS_WITHIN = 120  # seconds
WORDS = ("red", "blue", "green", "circle", "square", "what", "is", "the", "a", "shape", "color", "there", "image")


def build(checkpoint: str, kind: str, path: Path) -> TextProcessor:
    """Write the decoder of a checkpoint folder or a shipped model, without what is of the image; gives its text."""
    source = open_source(checkpoint)
    text = source.load_text()
    write_source(source, kind, path, text)
    return text


def stands_for_a_picture(text: TextProcessor, tokens: int, seed: int) -> str:
    """Words of about so many tokens: what a decoder takes in that has a picture's tokens in its text."""
    pick, said = random.Random(seed), ""
    while len(text.encode_text(said)) < tokens:
        said += f"{pick.choice(WORDS)} "
    return said


@contextlib.contextmanager
def serving(path: Path, slots: int, threads: int, options: Sequence[str] = ()) -> Iterator[tuple[str, psutil.Process]]:
    """A server of one file: its address, and its process.

    Args:
        path: a GGUF file with a chat template.
        slots: of its cache.
        threads: that compute.
        options: further ones of its command line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", str(slots), "--n_threads", str(threads), "--n_gpu_layers", "0"]
    command += ["--n_threads_batch", str(threads), "--interrupt_requests", "false", "--verbose", "false", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/v1/models", process)
            yield f"http://127.0.0.1:{port}/", psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(address):
            return
        time.sleep(0.2)
    raise SystemExit("llama_cpp.server does not start; it needs pip install 'llama-cpp-python[server]'")
