"""The programs in examples/ do what they say, on small models and the shipped pictures."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.verifying import open_verified
from tests.conftest import TINY

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, *arguments: object) -> list[str]:
    """Run it to its end; the lines that it prints."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"`{path.name}`" in listed
        assert f'"{path.name}"' in tests


def test_own_images(tmp_path):
    """Few pictures and steps: it need not learn, but each file has to be there and each question answered."""
    lines = example("own_images.py", "--steps", 4, "--pictures", 24, "--out", tmp_path / "mine")
    asked = ("What color is it?", "What shape is it?", "What is it?")
    session = open_bundle(tmp_path / "mine" / "bundle")
    expected = [f"{prompt} {session.answer(prompt, tmp_path / 'mine' / 'new.png')}" for prompt in asked]
    assert lines[-3:] == expected
    assert len(list((tmp_path / "mine" / "data" / "images").iterdir())) == 24
    assert open_verified(tmp_path / "mine" / "bundle").manifest.provenance


@pytest.mark.slow
def test_compare_targets(tiny_checkpoint, probe_image):
    """Slow: adds the third example."""
    targets = ["onnx", "onnx_portable"]
    model = ("--model", tiny_checkpoint, "--quant", "none")
    lines = example("compare_targets.py", probe_image, "--targets", ",".join(targets), *model)
    rows = [line.split(maxsplit=5) for line in lines]
    assert [row[0] for row in rows] == targets
    for _, size, megabytes, ttft, milliseconds, _ in rows:
        assert (megabytes, milliseconds) == ("MB", "ms")
        assert 0.1 < float(size) < 2
        assert float(ttft) > 0
    assert len({row[5] for row in rows}) == 1  # the same answer


@pytest.fixture(scope="module")
def server(tiny_bundle):
    """The app's server on a port of its own."""
    command = [sys.executable, "-u", EXAMPLES / "app_server.py", tiny_bundle, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        yield running.stdout.readline().strip()
        running.terminate()


def post(address: str, body: bytes) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_app_server(server, tiny_bundle, probe_image):
    status, kept = post(f"{server}/images", probe_image.read_bytes())
    assert (status, kept["tokens"]) == (200, TINY.vision.num_tokens)
    assert post(f"{server}/images", probe_image.read_bytes()) == (status, kept)
    session = open_bundle(tiny_bundle)
    for prompt in ("What color is it?", "What shape is this?"):
        body = json.dumps({"image": kept["image"], "prompt": prompt}).encode()
        status, answer = post(f"{server}/answers", body)
        assert (status, answer["answer"]) == (200, session.answer(prompt, probe_image))
    status, answer = post(f"{server}/answers", b'{"prompt": "hello"}')  # without a picture
    assert (status, answer["answer"]) == (200, session.answer("hello"))


@pytest.mark.parametrize(("path", "body", "status", "words"), [
    ("images", b"no picture", 400, "not an image"), ("answers", b"{", 400, "not a request"),
    ("answers", b'{"image": "unknown", "prompt": "hi"}', 400, "not a request"),
    ("answers", b'{"prompt": ""}', 400, "empty"), ("elsewhere", b"", 404, "POST /images"),
])  # fmt: skip
def test_app_server_says_what_is_wrong_and_goes_on(server, path, body, status, words):
    found, answer = post(f"{server}/{path}", body)
    assert (found, words in str(answer["error"])) == (status, True), answer
    assert post(f"{server}/answers", b'{"prompt": "hello"}')[0] == 200
