"""`himix push` and `hf://` addresses, against a stand-in of the hub on loopback."""

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from himix_edge.cli.push import model_card
from himix_edge.errors import InputError
from himix_edge.files import sha256
from himix_edge.manifest import MANIFEST
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.hub import repository
from himix_edge.runtimes.verifying import open_verified
from tests.commands import himix

SHA = "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """One branch of any number of repositories, in memory; files are sent in the commit itself."""

    protocol_version = "HTTP/1.1"
    files: dict[str, dict[str, bytes]] = {}  # noqa: RUF012 one for the test's server
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self):
        body, parts = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.path.split("/")
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
        if self.path == "/api/repos/create":
            given = json.loads(body)
            return self.tell({"url": f"{self.here}/{given.get('organization') or 'me'}/{given['name']}"})
        if self.path == "/api/validate-yaml":
            return self.tell({"errors": [], "warnings": []})
        repo = "/".join(parts[3:5])
        if parts[5].startswith("preupload"):
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.tell({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files.setdefault(repo, {})[entry["value"]["path"]] = content
        return self.tell({"success": True, "commitOid": SHA, "commitUrl": f"{self.here}/{repo}/commit/{SHA}"})

    def do_GET(self):
        parts = self.path.partition("?")[0].split("/")
        if parts[1] == "api":
            held = self.files.get("/".join(parts[3:5]))
            found = {"id": "/".join(parts[3:5]), "sha": SHA, "siblings": [{"rfilename": name} for name in held or ()]}
            return self.tell(found) if held is not None else self.tell({"error": "Repository not found"}, 404)
        content = self.files.get("/".join(parts[1:3]), {}).get("/".join(parts[5:]))
        if content is None:
            return self.tell({"error": "Entry not found"}, 404)
        self.asked.append(f"{self.command} {'/'.join(parts[5:])}")
        tag = hashlib.sha256(content).hexdigest()
        return self.send(content, "application/octet-stream", {"ETag": f'"{tag}"', "X-Repo-Commit": SHA})

    def do_HEAD(self):
        self.do_GET()

    @property
    def here(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def tell(self, value, status=200):
        self.send(json.dumps(value).encode(), "application/json", {}, status)

    def send(self, content, kind, headers, status=200):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    """The environment of commands that take the stand-in for the hub."""
    Hub.files, Hub.asked = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_secret",
           "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "hf"),
           "XDG_CACHE_HOME": str(tmp_path / "cache")}  # fmt: skip
    server.shutdown()
    server.server_close()


def run(environment, *arguments):
    command = [sys.executable, "-m", "himix_edge", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_what_is_pushed_is_opened(hub, tiny_bundle, tmp_path, probe_image):
    """Slow: adds the way there and back, each command in a process of its own."""
    mine = tmp_path / "mine"
    shutil.copytree(tiny_bundle, mine)
    (mine / "private.txt").write_text("not listed")
    done = run(hub, "push", mine, "me/tiny", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert "hf://me/tiny" in done.stdout
    names = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert set(Hub.files["me/tiny"]) == names | {"README.md"}
    assert all(Hub.files["me/tiny"][name] == (tiny_bundle / name).read_bytes() for name in names)
    assert all("hf_secret" in line for line in Hub.asked)
    asked = ("run", "--bundle", "hf://me/tiny", "--prompt", "what is it?", "--image", probe_image, "--json",
             "--max-new-tokens", 5)  # fmt: skip
    expected = "".join(p.text for p in open_bundle(tiny_bundle).generate("what is it?", probe_image, max_new_tokens=5))
    Hub.files["me/tiny"]["evil.py"] = b"x"
    found = run(hub, *asked)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["answers"][0]["answer"] == expected
    fetched = [Path(line.split()[1]).name for line in Hub.asked if line.startswith("GET ")]
    assert "README.md" not in fetched
    assert "evil.py" not in fetched
    offline = run({**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}, *asked)  # what was fetched is still there
    assert json.loads(offline.stdout)["answers"][0]["answer"] == expected
    assert "opened" in offline.stderr
    damaged = bytearray(Hub.files["me/tiny"]["decoder.onnx"])
    damaged[100] ^= 1
    Hub.files["me/tiny"]["decoder.onnx"] = bytes(damaged)
    shutil.rmtree(tmp_path / "cache")
    refused = run(hub, *asked)
    assert refused.returncode == 3
    assert "SHA-256" in refused.stderr
    missing = run(hub, "run", "--bundle", "hf://me/none", "--prompt", "x")
    assert missing.returncode == 2
    assert "me/none: no bundle can be fetched" in missing.stderr
    assert "Traceback" not in offline.stderr + refused.stderr + missing.stderr


def test_the_page_says_what_the_manifest_says(tiny_bundle):
    done = himix("push", tiny_bundle, "me/tiny", "--dry-run", "--license", "mit")
    card = done.stdout
    assert done.returncode == 0, done.stderr
    bundle = open_verified(tiny_bundle)
    assert card == model_card(bundle, "me/tiny", "mit")
    assert card.startswith("---\nlibrary_name: himix-edge\n")
    assert "license: mit\n---\n" in card
    assert f"{bundle.bytes / 1e6:.1f} MB" in card
    assert card.count("(limit ") == len(bundle.manifest.parity)
    provenance = {"training": {"data": {"name": "<b>", "license": "a|b\nc"}}}
    odd = bundle.manifest.model_copy(update={"provenance": provenance})
    bundle.manifest = odd
    assert "Trained on \\<b\\>, a\\|b c." in model_card(bundle, "me/tiny")


def evaluated(bundle, /, **changes):
    """What `himix eval --bundle BUNDLE --json` prints."""
    return {
        "model": str(bundle), "manifest_sha256": sha256(bundle / MANIFEST), "adapter": None, "image_bits": 32,
        "kv_bits": 32, "task": "easy-vqa", "split": "test", "asked": 500, "right": 450, "accuracy": 0.9,
        "interval": [0.8706, 0.9234], "answers_by": "text", "by_answer": {},
    } | changes  # fmt: skip


def measured(bundle, /, **changes):
    """What `himix bench BUNDLE --out` writes."""
    return {
        "schema_version": 2, "started": "2026-01-31T12:00:00Z", "command": "c", "harness": "himix-edge 0.1.0",
        "device": {"name": "anns-laptop", "kind": "computer", "cpu": "Some CPU | <b>", "cores": 4, "os": "Linux 6.1"},
        "bundle": {"name": "tiny", "target": "onnx", "precision": "int8",
                   "manifest_sha256": sha256(bundle / MANIFEST)},
        "settings": {"warm_up": 3, "timed": 4, "vision_tokens": 64, "threads": 2, "new_tokens": 32},
        "samples": {"ttft": [50.0, 52.4, 57.4, 90.0], "inter_token": [10.0, 10.0]}, "verdict": "valid",
    } | changes  # fmt: skip


def pushed(bundle, folder, evals=(), records=()):
    """`himix push --dry-run` with these as files."""
    arguments = []
    for option, contents in (("--eval", evals), ("--record", records)):
        for number, content in enumerate(contents):
            path = folder / f"{option[2:]}{number}.json"
            path.write_text(json.dumps(content))
            arguments += [option, path]
    return himix("push", bundle, "me/tiny", "--dry-run", *arguments)


def test_the_page_says_what_was_measured(tiny_bundle, tmp_path):
    score = {"value": 1234.5, "questions": 2000, "interval": [1200.0, 1260.0]}
    task = evaluated(tiny_bundle, task="/home/ann/m|me", asked=10, of=99, answers_by="likelihood", kv_bits=8,
                     scores={"perception": score})  # fmt: skip
    del task["accuracy"], task["interval"]
    phone = measured(tiny_bundle, device={"name": "Pixel 8", "kind": "phone"}, verdict="semi-valid", reasons=["busy"])
    done = pushed(tiny_bundle, tmp_path, [evaluated(tiny_bundle), task], [[measured(tiny_bundle)], phone])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert ("| easy-vqa (test) | 90.00% of 500 questions answered exactly (95% interval 87.06% to 92.34%) |") in lines
    assert ("| m\\|me (test), perception | 1234 over 2000 questions (95% interval 1200 to 1260); the first 10 of 99 "
            "questions; answers by likelihood; the cache in 8 bits |") in lines  # fmt: skip
    assert "| machine | Some CPU \\| \\<b\\>, 4 cores, Linux 6.1 |" in lines
    assert "| machine | Pixel 8 (phone) |" in lines
    assert "| TTFT | 54.9 ms, the median of 4 (p90 80.2 ms, p99 89 ms) |" in lines
    assert "| tokens a second | 100, of the median token |" in lines
    assert "| threads | 2 |" in lines
    assert "| verdict | semi-valid: busy |" in lines
    assert "ann" not in done.stdout.replace("cannot", "")  # whose machine it was
    assert "## Latency" not in pushed(tiny_bundle, tmp_path).stdout


def test_what_eval_prints_is_taken(tiny_bundle, tmp_path):
    printed = himix("eval", "--bundle", tiny_bundle, "--limit", "2", "--json")
    done = pushed(tiny_bundle, tmp_path, [json.loads(printed.stdout)])
    assert done.returncode == 0, done.stderr
    assert " of 2 questions answered exactly (95% interval " in done.stdout


@pytest.mark.parametrize(("option", "changes", "words"), [
    ("evals", {"manifest_sha256": "0" * 64}, "of the bundle whose manifest is 000000000000..., not of this one"),
    ("evals", {"manifest_sha256": None}, "does not say which bundle"),
    ("evals", {"manifest_sha256": "x"}, "manifest_sha256"),
    ("evals", {"adapter": "a.safetensors"}, "with an adapter"),
    ("evals", {"accuracy": None}, "has no score"),
    ("evals", {"accuracy": 1.5}, "accuracy"),
    ("evals", {"asked": 0}, "asked"),
    ("evals", {"scores": {str(n): {"value": 1, "questions": 1, "interval": [0, 1]} for n in range(101)}}, "scores"),
    ("records", {"bundle": {"name": "a", "target": "onnx", "precision": "int8"}}, "of a bundle that it does not name"),
    ("records", {"bundle": {"name": "a", "target": "onnx", "precision": "int8", "manifest_sha256": "0" * 64}},
     "not of this one"),
    ("records", {"verdict": "invalid", "reasons": ["wrong answer"]}, "invalid (wrong answer)"),
    ("records", {"schema_version": 9}, "not a benchmark record"),
])  # fmt: skip
def test_what_was_measured_otherwise_is_refused(option, changes, words, tiny_bundle, tmp_path):
    content = {"evals": evaluated, "records": measured}[option](tiny_bundle, **changes)
    done = pushed(tiny_bundle, tmp_path, **{option: [content]})
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("repo", "more", "words"), [
    ("tiny", [], "OWNER/NAME"), ("a/b/c", [], "OWNER/NAME"), ("../x", [], "OWNER/NAME"),
    ("me/tiny", ["--license", "x\ny: z"], "--license"),
])  # fmt: skip
def test_odd_names_are_refused(repo, more, words, tiny_bundle):
    done = himix("push", tiny_bundle, repo, "--dry-run", *more)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(("given", "expected"), [
    ("hf://a/b", "a/b"), (Path("hf://a/b"), "a/b"), ("hf://a/../b", None), ("hf://a", None), ("hf://a/b/c", None),
    ("hf://-a/b", None), ("a/b", None), ("hf:///etc/passwd", None), (5, None),
])  # fmt: skip
def test_addresses(given, expected):
    assert repository(given) == expected


def test_a_folder_that_is_missing_asks_no_hub():
    with pytest.raises(InputError, match="no such bundle folder"):
        open_bundle("bundles/none")
