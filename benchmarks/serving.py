"""`himix serve` under load: clients that ask about mixed pictures, what they wait for, and the server's memory.

    python -m benchmarks.serving BUNDLE [--clients 8] [--seconds 600] [--sessions 1] [--threads N] [--pictures 400]
        [--peer CHECKPOINT --peer-seconds 180]

The server is a process of its own, asked over HTTP by OpenAI's client, a conversation of two questions about a picture
at a time. Pictures come again, so some are found in memory, some on disk (both smaller than all of them) and some
nowhere. First, alone: the time to the first token of pictures that were never seen, and of the same ones again.

--peer is the checkpoint that the bundle was made of. Its decoder goes into a GGUF file in Q8_0, and llama.cpp's server
(llama-cpp-python's) answers the same clients behind ours: first the questions alone, then with as many tokens of text
in front of them as a picture has, which is what a decoder takes in that has the picture in its text.
"""

import argparse
import base64
import io
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import openai
import psutil
from PIL import Image

from himix_edge.bench.host import device_facts
from himix_edge.cli.console import print_table
from himix_edge.presets import SHIPPED
from himix_edge.runtimes.verifying import open_verified

ALONE = 30  # pictures that are timed one by one
QUESTIONS = ("What shape is this?", "What color is it?", "Describe the image.", "is there a circle?")


@dataclass
class Counts:
    """What the clients saw."""

    first: list[float] = field(default_factory=list)  # milliseconds to the first text
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    silent: int = 0  # answers without a word
    errors: list[str] = field(default_factory=list)


def pictures(count: int) -> list[str]:
    """Data URLs of the shipped pictures, each a little other."""
    pick, shipped = random.Random(0), sorted((SHIPPED / "probe").glob("*.png"))
    made = []
    for number in range(count):
        image = Image.open(shipped[number % len(shipped)]).convert("RGB").resize((64 + pick.randrange(200),) * 2)
        image.putpixel((0, 0), (number % 256, number // 256, 0))
        file = io.BytesIO()
        image.save(file, "PNG")
        made.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return made


def ask(client: openai.OpenAI, model: str, subject: str, question: str, counts: Counts) -> None:
    """One question about a picture (a data URL) or a text, streamed."""
    picture = {"type": "image_url", "image_url": {"url": subject}}
    pictured = [picture, {"type": "text", "text": question}]
    content = pictured if subject.startswith("data:") else f"{subject}{question}"
    began, first, pieces, told = time.perf_counter(), 0.0, 0, 0
    try:
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], max_tokens=32, stream=True,  # type: ignore[list-item, misc]
            stream_options={"include_usage": True},
        )  # fmt: skip
        for chunk in stream:
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
            pieces += bool(chunk.choices and chunk.choices[0].delta.content)
            told = chunk.usage.completion_tokens if chunk.usage else told
    except openai.OpenAIError as error:
        counts.errors.append(str(error))
        return
    counts.tokens += told or pieces  # llama.cpp's server sends a piece for each token and no usage
    if not pieces:
        counts.silent += 1
        return
    counts.first.append(first * 1000)
    counts.whole.append((time.perf_counter() - began) * 1000)


def alone(client: openai.OpenAI, model: str, urls: list[str]) -> tuple[float, float]:
    """Median milliseconds to the first token of pictures that are new, and that are known."""
    cold, warm = Counts(), Counts()
    for url in urls:
        ask(client, model, url, QUESTIONS[0], cold)
        ask(client, model, url, QUESTIONS[0], warm)
    return median(cold.first), median(warm.first)


def load(
    address: str, model: str, urls: list[str], clients: int, seconds: float, server: psutil.Process
) -> tuple[Counts, list[float]]:
    """What `clients` see in so many seconds, and the server's resident MB, each second."""
    counts, end, memory = [Counts() for _ in range(clients)], time.monotonic() + seconds, []

    def work(number: int) -> None:
        pick = random.Random(number)
        with openai.OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0, timeout=120) as client:
            while time.monotonic() < end:
                url = urls[min(int(pick.expovariate(4 / len(urls))), len(urls) - 1)]  # some much more often
                for question in pick.sample(QUESTIONS, 2):
                    ask(client, model, url, question, counts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(server.memory_info().rss / 1e6)
        time.sleep(1)
    every = Counts()
    for each in counts:
        every.first += each.first
        every.whole += each.whole
        every.errors += each.errors
        every.tokens += each.tokens
        every.silent += each.silent
    return every, memory


def figures(counts: Counts, memory: list[float], seconds: float) -> dict[str, str]:
    """What is told of a run under load."""
    half, last = len(memory) // 2, max(len(memory) - 1, 0)
    return {
        "answers": str(len(counts.whole)), "errors": str(len(counts.errors)), "without a word": str(counts.silent),
        "answers a second": f"{len(counts.whole) / seconds:.1f}", "tokens a second": f"{counts.tokens / seconds:.1f}",
        "first token, p50 / p99": "{:.1f} / {:.1f} ms".format(*np.percentile(counts.first or [0], [50, 99])),
        "whole answer, p50 / p99": "{:.1f} / {:.1f} ms".format(*np.percentile(counts.whole or [0], [50, 99])),
        "memory: start, half, end": f"{memory[0]:.0f}, {memory[half]:.0f}, {memory[last]:.0f} MB",
    }  # fmt: skip


def theirs(checkpoint: str, bundle: Path, given: argparse.Namespace) -> dict[str, dict[str, str]]:
    """llama.cpp's server under the same load: the questions alone, and behind a picture's worth of text."""
    from benchmarks.peers.llama_server import build, serving, stands_for_a_picture

    manifest, found = open_verified(bundle).manifest, {}
    threads = given.threads or psutil.cpu_count(logical=False) or 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        text = build(checkpoint, "q8_0", path)
        long = [stands_for_a_picture(text, manifest.vision_tokens, seed) for seed in range(given.pictures)]
        for name, subjects in {"llama.cpp, text alone": [""], "llama.cpp, text for a picture": long}.items():
            with serving(path, manifest.context_capacity, threads) as (address, process):
                seconds = given.peer_seconds / 2
                counts, memory = load(address, "model", subjects, given.clients, seconds, process)
                found[name] = figures(counts, memory, seconds)
                print("\n".join(sorted(set(counts.errors))[:5]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="himix serve under load.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--image-memory-mb", type=int, default=8)
    parser.add_argument("--peer", metavar="CHECKPOINT", help="what the bundle was made of: a folder, or nano")
    parser.add_argument("--peer-seconds", type=float, default=180)
    given = parser.parse_args()
    urls = pictures(given.pictures + ALONE)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "himix_edge", "serve", f"model={given.bundle}", "--port", "0"]
        options = {"image-cache": folder, "image-cache-mb": 2 * given.image_memory_mb, "sessions": given.sessions,
                   "image-memory-mb": given.image_memory_mb}  # fmt: skip
        command += [f"--{name}={value}" for name, value in options.items()]
        command += [f"--threads={given.threads}"] if given.threads else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            with openai.OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0) as client:
                cold, warm = alone(client, "model", urls[given.pictures :])
            process = psutil.Process(server.pid)
            counts, memory = load(address, "model", urls[: given.pictures], given.clients, given.seconds, process)
            with urllib.request.urlopen(f"{address}metrics") as answer:
                lines = [line for line in answer.read().decode().splitlines() if line.startswith("himix_image")]
            server.terminate()
    columns = {"himix serve": figures(counts, memory, given.seconds)}
    columns["himix serve"] |= {"alone: new / known picture": f"{cold:.1f} / {warm:.1f} ms"}
    if given.peer:
        columns |= theirs(given.peer, given.bundle, given)
    settings = f"{given.clients} clients, {given.sessions} sessions, {given.seconds:.0f} s"
    rows = [(name, *(column.get(name, "") for column in columns.values())) for name in columns["himix serve"]]
    print_table(f"{given.bundle}, {settings}, {device_facts().get('cpu')}", ("", *columns), rows)
    print("\n".join([*lines, *sorted(set(counts.errors))[:5]]))


if __name__ == "__main__":
    main()
