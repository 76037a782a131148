"""The demo's server: odd requests get an answer with a 4xx code, other sites' pages get nothing."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WEB = Path(__file__).parents[1] / "web_demo"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page and a bundle `b` with a file, and links and a pipe beside it: (command, folder)."""
    folder = tmp_path_factory.mktemp("site")
    page, bundle = folder / "page", folder / "b"
    (page / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    shutil.copytree(WEB / "src", page / "src")
    for name in ("serve.py", "index.html"):
        shutil.copy(WEB / name, page / name)
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    (folder / "secret").write_text("secret")
    (bundle / "out").symlink_to(folder / "secret")
    (bundle / "circle").symlink_to(bundle / "circle")
    os.mkfifo(bundle / "pipe")
    return [sys.executable, str(page / "serve.py")], folder


@pytest.fixture(scope="module")
def port(site):
    command, folder = site
    with (folder / "errors").open("w") as errors:
        server = subprocess.Popen(
            [*command, folder / "b", "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    yield int(server.stdout.readline().rpartition(":")[2].split("/")[0])
    server.kill()
    server.wait()
    assert "Traceback" not in (folder / "errors").read_text()


def ask(port, head, host="localhost"):
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.sendall(head + f" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        content = b""
        while block := line.recv(1 << 16):
            content += block
    return int(content.split()[1]), content


@pytest.mark.parametrize("target", [
    b"/bundles/b/%00", b"/src/" + b"a" * 300, b"/" + b"a" * 70000, b"http://[bad/x", b"//[", b"//evil/src/page.js",
    b"/bundles/b/out", b"/bundles/b/circle", b"/bundles/b/pipe", b"/bundles/b", b"/bundles/b/", b"/src", b"/serve.py",
    b"/%2e%2e/secret", b"/bundles/b/..%2f..%2fsecret", b"/bundles/b/..\\..\\secret", b"/src/%5c..", b"/bundles/./b/x",
    b"/%ff", b"/\xff", b"*", b"localhost:80", b"http://localhost/src/page.js", b"/src/%0d%0aX:%20y",
])  # fmt: skip
def test_what_is_not_served_is_a_4xx(port, target):
    for method in (b"GET ", b"HEAD "):
        code, content = ask(port, method + target)
        assert 400 <= code < 500
        assert b"\r\nX: y" not in content


def test_what_is_served(port):
    for target in (
        b"/",
        b"/index.html?x=1",
        b"/src/page.js",
        b"/bundles/b/manifest.json",
        b"/bundles//b/manifest.json",
    ):
        code, content = ask(port, b"GET " + target)
        assert code == 200
        assert b"Cross-Origin-Embedder-Policy: require-corp" in content
    assert ask(port, b"GET /bundles/index.json")[1].endswith(b'["b"]')
    assert ask(port, b"HEAD /bundles/index.json")[1].endswith(b"\r\n\r\n")
    assert ask(port, b"POST /bundles/index.json")[0] == 501


@pytest.mark.parametrize(("host", "served"), [
    ("localhost:1", True), ("127.0.0.1", True), ("192.168.1.7:8000", True), ("[::1]:8000", True), ("LOCALHOST.", True),
    ("evil.example", False), ("localhost.evil.example", False), ("evil@localhost", False), ("", False),
    ("localhost\r\nHost: evil.example", False), ("localhost:x", False),
])  # fmt: skip
def test_only_this_machines_names_are_answered(port, host, served):
    code, content = ask(port, b"GET /bundles/index.json", host)
    assert (code == 200) == served
    assert served or (400 <= code < 500 and b'["b"]' not in content)


def test_a_client_that_leaves_is_nobodys_error(port, site):
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
        line.sendall(b"GET /src/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert ask(port, b"GET /")[0] == 200
    assert "Error" not in (site[1] / "errors").read_text()


def test_bad_ports_names_and_folders_are_one_line(site, tmp_path):
    command, folder = site
    odd, twin = tmp_path / "a b", tmp_path / "b"
    for made in (odd, twin):
        made.mkdir()
        (made / "manifest.json").write_text("{}")
    taken = socket.create_server(("127.0.0.1", 0))
    for arguments, words in (
        (["b", "--port", "99999"], "0 to 65535"), (["b", "--port", "-1"], "0 to 65535"), (["none"], "no manifest.json"),
        (["x" * 5000], "no manifest.json"), ([odd], "rename it"), (["b", twin], "two bundles"),
        (["b", "--port", str(taken.getsockname()[1])], "in use"), (["b", "--host", "a..b", "--port", "0"], "a..b"),
        (["b", "--host", "256.1.1.1", "--port", "0"], "256.1.1.1"),
    ):  # fmt: skip
        given = [*command, *arguments]
        result = subprocess.run(given, capture_output=True, text=True, cwd=folder, check=False, timeout=20)
        assert result.returncode == 2, arguments
        assert words in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
    taken.close()
