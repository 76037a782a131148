"""Benchmarks elsewhere: a board that has Python, NumPy and the runtime only; pushing; SSH; adb.

The slow ones run against a real OpenSSH server on loopback and the real `adb` client with a scripted device; as root
they install Debian's openssh-server and adb where those are missing.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from himix_edge.bench.devices import open_device
from himix_edge.bench.devices.board_job import board_job
from himix_edge.bench.devices.link import LinkLost, Result
from himix_edge.bench.devices.pushing import push
from himix_edge.bench.devices.runner import board_runtimes, build_runner
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Device, read_records
from himix_edge.bench.running import measure_here
from himix_edge.bundle import file_record, read_manifest, write_manifest
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import HimixError, InputError
from himix_edge.files import sha256
from himix_edge.presets import SHIPPED
from tests.bench.fake_adbd import FakeDevice
from tests.bench.phone import Phone

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
QUICK = Plan(warm_up=1, timed=5, new_tokens=4, loads=1)


@pytest.fixture(scope="module")
def board_python(tmp_path_factory) -> Path:
    """An interpreter that has NumPy and ONNX Runtime and nothing else, as a board may."""
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    site = next((folder / "env" / "lib").glob("python3*/site-packages"))
    for package in ("numpy", "onnxruntime"):
        source = Path(find_spec(package).origin).parent
        beside = [*source.parent.glob(f"{package}.libs"), *source.parent.glob(f"{package}-*.dist-info")]
        for path in (source, *beside):
            (site / path.name).symlink_to(path)
    return folder / "env" / "bin" / "python"


def test_the_runner_measures_with_nothing_but_numpy_and_the_runtime(tiny_bundle, board_python, tmp_path):
    build_runner(tmp_path / "runner.pyz")
    build_runner(tmp_path / "again.pyz")
    assert (tmp_path / "runner.pyz").read_bytes() == (tmp_path / "again.pyz").read_bytes()
    assert (tmp_path / "runner.pyz").stat().st_size < 60_000
    board = board_job(tiny_bundle, QUICK, PROBE, tmp_path)
    there = tmp_path / "there"
    for name, path in board.files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there / name)
    command = [board_python, "-I", tmp_path / "runner.pyz", "measure", "job.json"]
    done = subprocess.run(command, cwd=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])["outcome"]
    assert outcome["self_test_passed"]
    here = measure_here(tiny_bundle, QUICK, PROBE, Device(name="here"), "", lambda *at: None)
    assert [a["token_ids_sha256"] for a in outcome["answers"]] == [a.token_ids_sha256 for a in here.answers]
    assert {name: len(values) for name, values in outcome["samples"].items()} == {
        "load": 1, "vision_encoder": 5, "vision_injector": 5, "prefill": 5, "ttft": 5, "warm_ttft": 5, "inter_token": 15
    }  # fmt: skip
    assert board.text_of(outcome["answers"][0]["text"]) == here.answers[0].text
    (there / "decoder.onnx").write_bytes(b"other")
    refused = subprocess.run(command, cwd=there, capture_output=True, text=True, check=False).stdout
    assert "changed on the board" in json.loads(refused.splitlines()[-1])["error"]


@pytest.mark.parametrize("target", [runtime.name for runtime in board_runtimes()])
def test_the_runner_has_all_that_an_engine_imports(target, board_python, tmp_path):
    build_runner(tmp_path / "runner.pyz")
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import himix_edge.runtimes.{target}.engine"
    subprocess.run([board_python, "-I", "-c", code, tmp_path / "runner.pyz"], check=True)


class ShellLink:
    """A link to this machine's shell whose home is a folder; it may break in the middle of what it sends."""

    name = "board"

    def __init__(self, home: Path, path: str = os.environ["PATH"], breaks: list[int] | None = None):
        self._environment = {**os.environ, "HOME": str(home), "PATH": path}
        self.breaks = breaks or []
        self.sent = 0

    def run(self, command: str, timeout: float = 60) -> Result:
        done = subprocess.run(["sh", "-c", command], env=self._environment, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def send(self, command: str, source) -> None:
        data = source.read(self.breaks[0] if self.breaks else -1)
        self.sent += len(data)
        subprocess.run(["sh", "-c", command], env=self._environment, input=data, check=True)
        if self.breaks:
            self.breaks.pop(0)
            raise LinkLost("it broke")


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(300_000))
    return path


def put(link, large, folder="~/it"):
    return push(link, {"sub/it's large.bin": large}, folder, lambda done, of: None)


def test_a_broken_push_goes_on_where_it_ended(tmp_path, large, monkeypatch):
    monkeypatch.setattr("himix_edge.bench.devices.pushing.BETWEEN_TRIES_S", 0)
    link = ShellLink(tmp_path, breaks=[100_000, 50_000])
    put(link, large)
    there = tmp_path / "it" / "sub" / "it's large.bin"
    assert there.read_bytes() == large.read_bytes()
    assert link.sent == 300_000  # nothing twice
    assert put(link, large).sent == 0  # it is there
    large.write_bytes(os.urandom(1000))
    assert put(link, large).sent == 1000  # another version
    assert there.read_bytes() == large.read_bytes()


def test_a_push_that_gives_up_leaves_its_part_for_the_next(tmp_path, large, monkeypatch):
    monkeypatch.setattr("himix_edge.bench.devices.pushing.BETWEEN_TRIES_S", 0)
    with pytest.raises(LinkLost, match="what arrived is kept"):
        put(ShellLink(tmp_path, breaks=[20_000] * 9), large)
    later = ShellLink(tmp_path)
    assert put(later, large).kept == 120_000
    assert later.sent == 180_000


def test_a_part_of_something_else_is_not_continued(tmp_path, large):
    part = tmp_path / "it" / "sub" / "it's large.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    link = ShellLink(tmp_path)
    put(link, large)
    assert link.sent == 300_000
    assert not part.exists()


def test_no_room_and_no_right_are_said_before_anything_is_sent(tmp_path, large):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "df").write_text("#!/bin/sh\necho Filesystem\necho /dev/root 1000 990 10 99% /\n")
    (tools / "df").chmod(0o755)
    link = ShellLink(tmp_path, path=f"{tools}:{os.environ['PATH']}")
    with pytest.raises(InputError, match="no room"):
        put(link, large)
    assert link.sent == 0
    with pytest.raises(InputError, match="/proc/nothing"):
        put(ShellLink(tmp_path), large, "/proc/nothing")


@pytest.mark.parametrize("name", ["usb", "ssh://", "ssh://host:port", "ssh://-oProxyCommand=x"])
def test_names_of_devices(name):
    with pytest.raises(InputError, match=r"give .*ssh://user@host"), open_device(name):
        pass


def test_a_board_does_not_run_every_target(tiny_bundle, tmp_path):
    folder = tmp_path / "coreml"
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"target": "coreml"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a board runs litert, onnx"):
        board_job(folder, QUICK, PROBE, tmp_path)


def installed(program: str, package: str) -> str:
    """The path of a program, installed from Debian's package if it is missing."""
    path = os.environ["PATH"] + ":/usr/sbin"
    if not shutil.which(program, path=path):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True, stdout=subprocess.DEVNULL)
    return shutil.which(program, path=path)


class Cable(threading.Thread):
    """Forwards TCP to a port; `cut_after` cuts every connection once, when so many bytes went towards it."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.cut_after: int | None = None
        self.forwarded: list[int] = []  # bytes of each connection
        self._open: list[socket.socket] = []
        self.start()

    def run(self) -> None:
        while True:
            here, _ = self._server.accept()
            there = socket.create_connection(("127.0.0.1", self._target))
            self._open += [here, there]
            self.forwarded.append(0)
            number = len(self.forwarded) - 1
            threading.Thread(target=self._copy, args=(here, there, number), daemon=True).start()
            threading.Thread(target=self._copy, args=(there, here, None), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, number: int | None) -> None:
        try:
            while block := source.recv(16 << 10):
                sink.sendall(block)
                if number is not None:
                    self.forwarded[number] += len(block)
                    if self.cut_after is not None and self.forwarded[number] > self.cut_after:
                        self.cut_after = None
                        for end in self._open:
                            end.close()
        except OSError:
            pass
        for end in (source, sink):
            end.close()


@pytest.fixture
def ssh(tmp_path, board_python, monkeypatch):
    """An OpenSSH server of our own on loopback, with keys made here, behind a cable that can be cut."""
    sshd = installed("sshd", "openssh-server")
    Path("/run/sshd").mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("host", "key", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/key.pub\n"
        f"PidFile none\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nSetEnv HOME={home}\n"
    )
    server = subprocess.Popen([sshd, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=subprocess.DEVNULL)
    cable = Cable(port)
    cable.home = home

    def options(key: str, known: str = "accept-new") -> str:
        config = tmp_path / f"{key}.config"
        config.write_text(f"Host *\n IdentityFile {tmp_path}/{key}\n IdentitiesOnly yes\n"
                          f" UserKnownHostsFile {tmp_path}/known\n StrictHostKeyChecking {known}\n")  # fmt: skip
        return shlex.join(["ssh", "-F", str(config)])

    cable.options = options
    monkeypatch.setenv("HIMIX_SSH", options("key"))
    monkeypatch.setenv("HIMIX_BOARD_PYTHON", str(board_python))
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    cable.address = f"ssh://{user}@127.0.0.1:{cable.port}"
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield cable
    server.terminate()
    server.wait()


@pytest.mark.slow
def test_ssh_a_cut_link_is_resumed_and_the_board_left_clean(ssh, tiny_bundle, tmp_path):
    """A real OpenSSH server: the cable is cut in mid-push, the rest is sent once, the run is whole."""
    bundle, size = tmp_path / "tiny", 24_000_000
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "more.bin").write_bytes(os.urandom(size))
    manifest = read_manifest(bundle)
    more = file_record(bundle, bundle / "more.bin")
    write_manifest(bundle, manifest.model_copy(update={"files": [more, *manifest.files]}))
    ssh.cut_after = size // 2
    options = ["--iterations", "5", "--new-tokens", "4", "--out", str(tmp_path / "r.json")]
    command = ["bench", str(bundle), "--device", ssh.address, *options]
    result = CliRunner().invoke(himix, command)
    assert result.exit_code == 0, result.output + str(result.exception)
    assert ssh.cut_after is None  # it was cut
    assert len(ssh.forwarded) >= 2
    # the first half was not sent again: OpenSSH lets 2 MiB be on the way, which a cut may lose
    assert sum(ssh.forwarded) < size + 4_000_000
    found = read_records(tmp_path / "r.json")[0]
    assert found.verdict != "invalid"
    assert found.self_test_passed
    assert len(found.samples.load) == 3
    assert len(found.samples.ttft) == 5
    assert found.versions.keys() == {"numpy", "onnxruntime"}
    here = measure_here(bundle, QUICK, PROBE, Device(name="here"), "", lambda *at: None)
    expected = [(a.prompt, a.images, a.text, a.token_ids_sha256) for a in here.answers]
    assert [(a.prompt, a.images, a.text, a.token_ids_sha256) for a in found.answers] == expected
    assert not list(ssh.home.glob(".cache/himix-bench/*"))


@pytest.mark.slow
def test_ssh_errors_are_one_line_that_helps(ssh, tiny_bundle, monkeypatch, tmp_path):
    """A real OpenSSH server: refused key, unknown host key, no Python, no runtime, wrong port, no such host."""

    def error(address: str = ssh.address) -> HimixError:
        failure = CliRunner().invoke(himix, ["bench", str(tiny_bundle), "--device", address]).exception
        assert isinstance(failure, HimixError)
        assert "\n" not in str(failure)
        return failure

    assert "nothing answers at that port" in str(error("ssh://127.0.0.1:9"))
    assert "no such host" in str(error("ssh://no-such-host.invalid"))
    monkeypatch.setenv("HIMIX_BOARD_PYTHON", "/nowhere/python")
    assert "no /nowhere/python there" in str(error())
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setenv("HIMIX_BOARD_PYTHON", str(bare / "bin" / "python"))
    assert "numpy is not installed" in str(error())
    assert error().exit_code == 4
    monkeypatch.setenv("HIMIX_SSH", ssh.options("stranger"))
    assert "it refused your key" in str(error())
    (tmp_path / "known").unlink()
    monkeypatch.setenv("HIMIX_SSH", ssh.options("key", known="yes"))
    assert "connect once by hand" in str(error())


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """The real adb client and server, with a scripted device."""
    adb = installed("adb", "adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stand_in = Phone(tmp_path)
    device = FakeDevice(stand_in.sdcard, stand_in.tools)
    device.phone = stand_in
    monkeypatch.setenv("HIMIX_ADB", f"{adb} -P {port}")
    monkeypatch.setattr("himix_edge.bench.devices.adb_app.POLL_S", 0.5)
    subprocess.run([adb, "-P", str(port), "connect", device.serial], check=True, capture_output=True)
    yield device
    subprocess.run([adb, "-P", str(port), "kill-server"], check=False, capture_output=True)
    device.close()


@pytest.mark.slow
def test_adb_pushes_starts_the_app_and_reads_its_record(phone, tiny_bundle, tmp_path):
    """The real adb client with a scripted device (no phone): push, cut, resume, intent, record, clean-up."""
    size = sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
    phone.cut_after = phone.received + size // 2
    options = ["--iterations", "5", "--warm-up", "1", "--threads", "2", "--out", str(tmp_path / "r.json")]
    command = ["bench", str(tiny_bundle), "--device", f"adb:{phone.serial}", *options]
    result = CliRunner().invoke(himix, command)
    assert result.exit_code == 0, result.output + str(result.exception)
    assert phone.cut_after is None
    assert read_records(tmp_path / "r.json")[0].samples.ttft == [12.5] * 5
    name = f"himix-bench-{sha256(tiny_bundle / 'manifest.json')[:16]}"  # none that a user would choose
    assert phone.phone.log[-2].split() == [
        "start", "-n", "dev.himix.edge.demo/.BenchActivity", "--es", "out", "himix-bench.json", "--es", "bundle", name,
        "--ei", "warm_up", "1", "--ei", "timed", "5", "--ei", "new_tokens", "32", "--ez", "natural", "false",
        "--ei", "threads", "2",
    ]  # fmt: skip
    assert not [path for path in phone.sdcard.rglob("*") if path.is_file() and path.suffix != ".new"]


@pytest.mark.slow
def test_adb_errors_and_listing(phone, tiny_bundle, monkeypatch):
    """The real adb client with a scripted device (no phone)."""

    def error(*options: str) -> str:
        name = f"adb:{phone.serial}"
        return str(CliRunner().invoke(himix, ["bench", str(tiny_bundle), "--device", name, *options]).exception)

    listed = CliRunner().invoke(himix, ["devices", "--json"])
    found = {status["device"]: status for status in json.loads(listed.output)}
    assert found[f"adb:{phone.serial}"]["os"] == "Android 14"
    assert found[f"adb:{phone.serial}"]["battery_temperature_c"] == 31.2
    assert "local" in found
    assert "asks its own questions" in error("--images", "2")
    phone.phone.set(writes="error")
    assert "the app says: tiny: no such bundle" in error()
    (phone.tools / "pm").write_text("#!/bin/sh\nexit 1\n")
    assert "not installed" in error()
    with pytest.raises(InputError, match="not found"), open_device("adb:elsewhere") as other:
        other.status()
