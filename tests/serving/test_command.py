"""`himix serve` as it is started, killed and started again, and what it does not start with."""

import base64
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.commands import himix

WEB = Path(__file__).parents[2]


def start(bundle, folder, *more):
    """A server, and its address."""
    command = [
        sys.executable,
        "-m",
        "himix_edge",
        "serve",
        f"shapes={bundle}",
        "--port",
        "0",
        "--image-cache",
        folder,
        *more,
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    assert "serves shapes" in line, server.stderr.read()
    return server, line.split()[0]


def ask(address, image):
    url = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    body = {"model": "shapes", "messages": [{"role": "user", "content": content}], "max_tokens": 5}
    request = urllib.request.Request(
        f"{address}v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["choices"][0]["message"]["content"]


def found(address):
    with urllib.request.urlopen(f"{address}metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines if line.startswith("himix_images_total")}


def test_killed_and_started_again_it_knows_the_picture(tiny_bundle, probe_image, tmp_path):
    server, address = start(tiny_bundle, tmp_path / "kept")
    said = ask(address, probe_image)
    assert found(address) == {"nowhere": 1}
    while not list((tmp_path / "kept").glob("*.kv")):
        assert server.poll() is None
    server.kill()
    server.communicate()
    server, address = start(tiny_bundle, tmp_path / "kept")
    assert ask(address, probe_image) == said
    assert found(address) == {"disk": 1}
    server.send_signal(signal.SIGTERM)
    _, errors = server.communicate(timeout=30)
    assert "Traceback" not in errors
    assert server.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "Missing argument"), (["none"], "none"), (["--host", "0.0.0.0", "nano"], "API key"),
    (["--host", "a..b", "nano", "--api-key-file", "key"], "a..b, port 8000"),
    (["--api-key-file", "short", "nano"], "at least 16"), (["--api-key-file", "gone", "nano"], "no such file"),
    (["--image-folder", "gone", "nano"], "no folder"), (["a=nano", "a=small"], "two models called a"),
    (["a b=nano"], "NAME=FOLDER"), (["nano", "--image-cache", "short"], "images cannot be kept here"),
    (["nano", "--port", "99999"], "65535"),
])  # fmt: skip
def test_what_it_does_not_start_with_is_one_line(arguments, words, tmp_path):
    (tmp_path / "short").write_text("secret\n")
    (tmp_path / "key").write_text("a-key-of-some-length\n")
    if words not in ("Missing argument", "65535"):
        arguments = [*arguments, *([] if "--port" in arguments or "8000" in words else ["--port", "0"])]
    done = himix("serve", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = himix("serve", "nano", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode == 2
    assert "in use" in done.stderr


def test_the_page_has_the_web_demos_look():
    for name in ("style.css", "icon.svg"):
        assert (WEB / "himix_edge/assets/serve" / name).read_bytes() == (WEB / "web_demo" / name).read_bytes()
