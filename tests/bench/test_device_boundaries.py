"""Devices that misbehave: shells that greet, tools that hang or talk without end, boards that restart, odd names.

Stand-ins in place of ssh and adb, which run here what they are told.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from himix_edge.bench.devices import link as links
from himix_edge.bench.devices import open_device
from himix_edge.bench.devices.adb import AdbDevice, connected
from himix_edge.bench.devices.adb_link import AdbLink
from himix_edge.bench.devices.board_job import board_job
from himix_edge.bench.devices.link import LinkLost, Result, call
from himix_edge.bench.devices.pushing import MAX_COMMAND, free_bytes, push
from himix_edge.bench.devices.remote_job import clean_script, look_script, start_script, stop_script
from himix_edge.bench.devices.ssh import SshDevice
from himix_edge.bench.devices.ssh_link import SshLink, parse_address
from himix_edge.bench.outcome import BoardFacts, BoardLoad, WorkerFailed, board_outcome, follow, steps
from himix_edge.bench.plan import Plan
from himix_edge.bundle import file_record, read_manifest, write_manifest
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.presets import SHIPPED
from tests.bench.test_devices import ShellLink

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
GREETS = 'print("Welcome to the board, no line end: ", end="", flush=True)\n'
RUNS = "code = subprocess.call(['sh', '-c', sys.argv[-1]]) if '-O' not in sys.argv else 0\n"


def tool(folder: Path, body: str, name: str = "tool") -> str:
    """A program in Python that stands in for ssh or adb."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport os, subprocess, sys\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("pi@board", "pi@board", None),
        ("pi@board:2222/", "pi@board", 2222),
        ("board_1.lan", "board_1.lan", None),
        ("pi@[::1]:2222", "pi@::1", 2222),
        ("[fe80::1%eth0]", "fe80::1%eth0", None),
    ],
)
def test_addresses(address, host, port):
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("pi@{}board{", "give ssh://"),
        ("pi@board:²", "from 1 to 65535"),
        ("pi@board:٢٢", "from 1 to 65535"),
        ("pi@board:0", "from 1 to 65535"),
        ("pi@board:65536", "from 1 to 65535"),
        ("pi@board:-1", "from 1 to 65535"),
        ("pi@board:" + "9" * 5000, "from 1 to 65535"),
        ("pi@[::1:2222", "give ssh://"),
        ("pi@[1.2.3]:22", "is no IPv6 address"),
        ("-oProxyCommand=x@board", "give ssh://"),
        ("pi@-oProxyCommand=x", "give ssh://"),
        ("pi@board/folder", "give ssh://"),
        ("pi@bo ard", "give ssh://"),
        ("pi@board\n", "give ssh://"),
        ("pi@bo\0ard", "give ssh://"),
    ],
)
def test_addresses_that_are_none(address, says):
    with pytest.raises(InputError, match=says) as caught:
        parse_address(address)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_a_greeting_is_no_part_of_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("HIMIX_SSH", tool(tmp_path, GREETS + RUNS + 'print("Bye")\nsys.exit(code)'))
    board = SshLink("board", None)
    assert board.run("printf '1\\n2'; echo no >&2; exit 3") == Result(3, "1\n2", "no\n")
    assert board.run("true").output == ""
    board.close()


def test_a_shell_that_runs_nothing_is_named_in_one_line(tmp_path, monkeypatch):
    closed = 'print("\\x1b[31mThis account is \\rnot available.\\n")\nsys.exit(1)'
    monkeypatch.setenv("HIMIX_SSH", tool(tmp_path, closed))
    with pytest.raises(InputError, match="runs no commands of ours; it says") as caught:
        SshLink("board", None).run("true")
    assert not set(str(caught.value)) & {"\x1b", "\r", "\n"}


def test_a_board_that_greets_measures(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HIMIX_SSH", tool(tmp_path, GREETS + RUNS + "sys.exit(code)"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HIMIX_BOARD_PYTHON", sys.executable)
    plan = Plan(warm_up=0, timed=2, new_tokens=2, loads=2, sustained_s=0.2)
    with open_device("ssh://pi@board") as board:
        record = board.measure(tiny_bundle, plan, PROBE, "", lambda *at: None)
    assert record.self_test_passed
    assert (len(record.samples.load), len(record.samples.ttft)) == (2, 2)
    assert record.sustained.windows[0].answers > 0
    assert {entry.source for entry in record.energy} == {"rapl", "ina", "battery"}
    assert record.settings.files_dropped == "posix_fadvise"
    assert record.memory.pss_bytes > 0
    assert not list(tmp_path.glob(".cache/himix-bench/*"))


@pytest.mark.parametrize("variable", ["HIMIX_SSH", "HIMIX_ADB"])
@pytest.mark.parametrize(("value", "says"), [("'ssh", "No closing quotation"), ("", "names no command")])
def test_a_client_that_is_none(variable, value, says, monkeypatch):
    monkeypatch.setenv(variable, value)
    with (
        pytest.raises(InputError, match=f"{variable}: {says}"),
        open_device("adb" if variable == "HIMIX_ADB" else "ssh://board"),
    ):
        pass


def test_no_ssh_is_one_line_and_closes_well(monkeypatch):
    monkeypatch.setenv("HIMIX_SSH", "/nowhere/ssh")
    with pytest.raises(InputError, match="is not installed"), open_device("ssh://board") as board:
        board.status()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_tool_that_hangs_is_ended_with_its_children():
    before = children()
    with pytest.raises(LinkLost, match="no answer"):
        call(["sh", "-c", "sleep 1000 & sleep 1000"], 0.3)
    assert children() == before


def test_a_tool_s_child_that_holds_its_output_is_not_waited_for(tmp_path):
    assert call(["sh", "-c", f"echo hi; sleep 1000 & echo $! > {tmp_path}/pid; exit 4"], 100) == Result(4, "hi\n", "")
    psutil.Process(int((tmp_path / "pid").read_text())).kill()


def test_output_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(links, "MAX_OUTPUT_BYTES", 1 << 20)
    before = children()
    with pytest.raises(InputError, match="longer than 1 MiB"):
        call(["sh", "-c", "cat /dev/zero"], 100)
    assert call(["sh", "-c", "head -c 9000000 /dev/zero >&2; echo end >&2"], 100).errors.endswith("end\n")
    assert children() == before


def test_a_job_runs_once_outlives_its_start_and_can_be_stopped(tmp_path):
    there = tmp_path / "job"
    there.mkdir()
    board = ShellLink(tmp_path)
    inside = f"cd {there} && "
    for _ in range(2):
        board.run(inside + start_script("started-1", ["echo one", "sh -c 'echo two; exit 5'"]))
    assert board.run(inside + look_script()).output.split() == ["ended", "two"]
    assert (there / "out").read_text() == "one\ntwo\n"
    assert (there / "ended").read_text() == "5\n"
    board.run(inside + start_script("started-2", ["sleep 1000"]))
    assert board.run(inside + look_script()).output.split() == ["running"]
    board.run(inside + stop_script())
    assert board.run(inside + look_script()).output.split() == ["gone"]


def test_a_board_that_restarted_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HIMIX_SSH", tool(tmp_path, RUNS + "sys.exit(code)"))
    monkeypatch.setenv("HOME", str(tmp_path))
    there = tmp_path / "job"
    there.mkdir()
    (there / "pid").write_text(f"{os.getpid()}\n")  # the number is another process's by now
    (there / "err").write_text("last words\x1b[0m\n")
    with pytest.raises(InputError, match=r"did the board restart.*last words") as caught:
        SshDevice("board")._wait("~/job", lambda *at: None)
    assert "\x1b" not in str(caught.value)


def test_a_job_without_progress_is_given_up(monkeypatch):
    monkeypatch.setattr("himix_edge.bench.devices.ssh.STUCK_S", -1)
    device = SshDevice("board")
    monkeypatch.setattr(device.link, "run", lambda command, timeout=0: Result(0, 'running\n{"progress": [1, 2]}', ""))
    with pytest.raises(InputError, match="no progress"):
        device._wait("~/job", lambda *at: None)


def test_a_link_that_stays_lost_ends_the_run(monkeypatch):
    monkeypatch.setattr("himix_edge.bench.devices.ssh.SILENCE_S", 0)
    device = SshDevice("board")

    def lost(command, timeout=0):
        raise LinkLost("board: the link was lost")

    monkeypatch.setattr(device.link, "run", lost)
    with pytest.raises(LinkLost, match="the link was lost"):
        device._wait("~/job", lambda *at: None)


def test_what_a_killed_run_left_goes_after_a_day_and_nothing_else(tmp_path):
    home = tmp_path / "cache"
    for name in ("mine", "old", "young", "other words"):
        (home / name).mkdir(parents=True)
        (home / name / "file").touch()
    (tmp_path / "precious").mkdir()
    (home / "link").symlink_to(tmp_path / "precious")
    yesterday = time.time() - 200_000
    for name in ("old", "other words"):
        os.utime(home / name, (yesterday, yesterday))
    os.utime(tmp_path / "precious", (yesterday, yesterday))
    ShellLink(tmp_path).run(clean_script(f"{home}", f"{home}/mine"))
    assert sorted(path.name for path in home.iterdir()) == ["link", "young"]
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("name", ["../x", "a/../b", "a//b", "./a", "/etc/x", "a\nb", "a\x1bb", "x.part", ""])
def test_names_that_are_sent_nowhere(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not sent to a device"):
        push(ShellLink(tmp_path), {name: tmp_path / "file"}, "~/it", lambda done, of: None)
    assert not (tmp_path / "it").exists()


def test_names_that_a_shell_reads_otherwise_arrive_as_they_are(tmp_path):
    files = {name: tmp_path / f"{n}" for n, name in enumerate(("$(touch x)", "a b;c", "-rf", "it's", "`x`/*", "ü"))}
    for number, path in enumerate(files.values()):
        path.write_bytes(b"" if number == 1 else os.urandom(10))
    push(ShellLink(tmp_path), files, "~/it", lambda done, of: None)
    there = [path for path in (tmp_path / "it").rglob("*") if path.is_file()]
    found = {str(path.relative_to(tmp_path / "it")): path.read_bytes() for path in there}
    assert found == {name: path.read_bytes() for name, path in files.items()}


def test_many_files_are_no_command_that_is_too_long(tmp_path):
    commands = []

    class Watched(ShellLink):
        def run(self, command, timeout=60):
            commands.append(command)
            return super().run(command, timeout)

    files = {f"{'long/' * 20}{number}": tmp_path / "file" for number in range(100)}
    (tmp_path / "file").write_bytes(b"x")
    link = Watched(tmp_path)
    push(link, files, "~/it", lambda done, of: None)
    assert max(map(len, commands)) < 2 * MAX_COMMAND
    assert link.sent == 100


@pytest.mark.parametrize("said", ["", "Welcome\ndone x\n", "\x00\xff", "done\ndone\ndone"])
def test_a_board_that_answers_nonsense_is_one_line(said, tmp_path):
    class Odd(ShellLink):
        def run(self, command, timeout=60):
            return Result(0, said if "sha256sum" in command and "mkdir" not in command else "", "")

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="its shell answers"):
        push(Odd(tmp_path), {"a": tmp_path / "file", "b": tmp_path / "file"}, "~/it", lambda done, of: None)


def test_free_space_is_a_number_or_unknown():
    assert free_bytes("/dev/x 9999 1 9998 1% /") == 9998 * 1024
    assert free_bytes("/dev/x 9999 1 ² 1% /") is None
    assert free_bytes("9" * 5000 + " x") is None


@pytest.mark.parametrize(
    "line",
    [
        '{"outcome": {"load": "5", "baseline_bytes": 1}}',
        '{"outcome": {"load": 1e999, "baseline_bytes": 1}}',
        '{"outcome": {"load": NaN}}',
        '{"outcome": {}}',
    ],
)
def test_what_a_board_reports_has_a_schema(line):
    with pytest.raises(InputError, match="board"):
        board_outcome(BoardLoad, line, "board")


def test_chatter_and_odd_messages_of_a_measuring_process():
    moved = []
    odd = ('{"outcome": 5}', '{"progress": "x"}', '{"progress": [1]}', '{"progress": [true, 2]}')
    for line in ("x", "[1]", *odd, "[" * 9999):
        assert board_outcome(BoardFacts, line, "board") is None
        assert follow([line], lambda *at: moved.append(at)) is None
    assert not moved
    assert steps({"progress": [-1, 5]}) is None
    assert steps({"progress": [10**400, 5]}) is None
    with pytest.raises(WorkerFailed) as caught:
        follow(['{"error": "a\\u001b[31m\\nb", "exit_code": "x"}'], lambda done, of: None)
    assert caught.value.exit_code == 2
    assert not set(str(caught.value)) & {"\x1b", "\n"}


def bundle_with(tiny_bundle: Path, folder: Path, **changes) -> Path:
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("name", ["ended", "out/x", "started-1", "job.json", "pixels/0.npy"])
def test_a_bundle_s_file_is_not_taken_for_one_of_the_run(name, tiny_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("0")
    manifest = read_manifest(folder)
    more = file_record(folder, folder / name)
    write_manifest(folder, manifest.model_copy(update={"files": [*manifest.files, more]}))
    with pytest.raises(InputError, match="has the name of one that measuring makes"):
        board_job(folder, Plan(), PROBE, tmp_path)


LISTENS = """
with open(os.environ["LOG"], "a") as log:
    log.write(sys.argv[-1] + "\\n")
"""


def test_a_target_that_the_app_refuses_is_refused_before_anything_is_sent(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("HIMIX_ADB", tool(tmp_path, LISTENS))
    folder = bundle_with(tiny_bundle, tmp_path / "bundle", target="onnx_portable")
    with pytest.raises(InputError, match="the app runs onnx bundles, not onnx_portable"), open_device("adb") as phone:
        phone.measure(folder, Plan(), PROBE, "", lambda *at: None)
    assert not (tmp_path / "log").exists()


def test_a_bundle_that_the_user_put_on_the_phone_stays_there(tiny_bundle, tmp_path, monkeypatch):
    """What is measured goes into a folder of our own, and only that one is removed."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    installed = 'print("package:x") if "pm path" in sys.argv[-1] else None\n'
    monkeypatch.setenv("HIMIX_ADB", tool(tmp_path, LISTENS + installed))
    with pytest.raises(InputError, match="its shell answers"), open_device("adb") as phone:
        phone.measure(tiny_bundle, Plan(), PROBE, "", lambda *at: None)
    name = read_manifest(tiny_bundle).name
    assert f"/{name}" not in (tmp_path / "log").read_text()
    removed = [line for line in (tmp_path / "log").read_text().splitlines() if "rm -rf" in line]
    assert removed
    assert all("bundles/himix-bench-" in line for line in removed)


@pytest.mark.parametrize(
    ("errors", "kind", "says"),
    [
        ("error: device offline", LinkLost, "unplug it"),
        ("error: device 'x' not found", LinkLost, "not found"),
        ("adb: more than one device/emulator", InputError, "name one"),
        ("adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nTry 'adb kill-server'.",
         InputError, "confirm the question"),
        ("error: \x1b[2J\x07gone\rx", InputError, "gone"),
    ],
)  # fmt: skip
def test_what_adb_says_itself(errors, kind, says, tmp_path, monkeypatch):
    monkeypatch.setenv("HIMIX_ADB", tool(tmp_path, f"sys.stderr.write({errors!r})\nsys.exit(1)"))
    with pytest.raises(kind, match=says) as caught:
        AdbLink(None).run("true")
    assert type(caught.value) is kind
    assert not set(str(caught.value)) & {"\x1b", "\x07", "\r", "\n"}


def test_serial_numbers(tmp_path, monkeypatch):
    listing = (
        "List of devices attached\nemulator-1\tdevice\n\x1b[31mevil\tdevice\nline of words\n\n1.2.3.4:5\toffline\n"
    )
    monkeypatch.setenv("HIMIX_ADB", tool(tmp_path, f"sys.stdout.write({listing!r})"))
    assert connected() == [("emulator-1", "device"), ("line", "of words"), ("1.2.3.4:5", "offline")]
    for serial in ("a b", "a\nb", "a\0b", "\x1b[0m", "x" * 300):
        with pytest.raises(InputError, match="not a serial number"):
            AdbDevice(serial)


def test_a_phone_that_talks_nonsense_is_described_as_far_as_it_can_be(tmp_path, monkeypatch):
    says = 'sys.stdout.buffer.write(b"\\x1b[31m\\xff\\x00MemTotal: " + b"9" * 9000)'
    monkeypatch.setenv("HIMIX_ADB", tool(tmp_path, says))
    result = CliRunner().invoke(himix, ["devices", "adb:x"])
    assert result.exit_code == 0, repr(result.exception)
    assert "\x1b" not in result.output
    assert "\x00" not in result.output
