"""However a command ends: one line, an exit code, and nothing lost without a word."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from himix_edge.cli.console import print_json, print_table, progress_console, track
from himix_edge.errors import BackendMissing, one_line

PROGRAM = """
import sys, threading
import click
from himix_edge.cli.last_net import call
from himix_edge.errors import GateRefused, InputError

@click.command()
def program():
    {body}

call(lambda: program, "himix")
"""


def ended(body, env=None, **more):
    """A program under the net that does `body`."""
    given = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    code = PROGRAM.format(body=body.replace("\n", "\n    "))
    more = {"stdout": subprocess.PIPE, **more}
    return subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=given, check=False, **more
    )


def said(result, code):
    """The one line that it says."""
    assert result.returncode == code, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("himix: "), line
    return line


def test_an_unexpected_error_is_a_line_and_a_log_for_its_owner(tmp_path):
    body = "raise ValueError('first\\nsecond \\x1b[31m \\ud800')"
    line = said(ended(body, {"XDG_STATE_HOME": str(tmp_path)}), 1)
    assert "unexpected ValueError: first second \\x1b[31m \\ud800 (a bug" in line
    (log,) = tmp_path.rglob("*.log")
    assert str(log) in line
    assert "Traceback" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    shown = ended(body, {"XDG_STATE_HOME": str(tmp_path), "HIMIX_TRACEBACK": "1"})
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("himix: error: unexpected ValueError")


@pytest.mark.parametrize("env", [
    {"HOME": None, "XDG_STATE_HOME": None},
    {"HOME": "", "XDG_STATE_HOME": "not/absolute"},
    {"HOME": "/proc", "XDG_STATE_HOME": "/dev/null/x", "TMPDIR": "/proc"},
])  # fmt: skip
def test_the_net_needs_no_home(env, tmp_path):
    line = said(ended("raise KeyError('x')", {"TMPDIR": str(tmp_path), **env}), 1)
    assert "unexpected KeyError" in line


def test_old_logs_are_forgotten(tmp_path):
    folder = tmp_path / "himix-edge"
    folder.mkdir()
    for number in range(30):
        (folder / f"error-2020{number:04}.log").touch()
    (folder / "other.log").touch()
    said(ended("raise KeyError('x')", {"XDG_STATE_HOME": str(tmp_path)}), 1)
    assert len(list(folder.glob("error-*.log"))) == 20
    assert (folder / "other.log").exists()


@pytest.mark.parametrize(("body", "code", "words"), [
    ("raise InputError('a\\nb')", 2, "error: a b"),
    ("raise InputError('x' * 10**6)", 2, "xxx ... xxx"),
    ("raise MemoryError", 2, "not enough memory"),
    ("raise RuntimeError(\"[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\")", 2, "not enough"),
    ("def f(): f()\nf()", 1, "unexpected RecursionError"),
    ("open('/none/x', 'w')", 2, "error: /none/x: No such file"),
    ("raise OSError(28, 'No space left on device')", 2, "No space left"),
    ("raise KeyboardInterrupt", 130, "interrupted"),
    ("raise EOFError", 2, "standard input ended"),
    ("sys.exit('words\\nfor people')", 1, "words for people"),
    ("raise click.FileError('f\\x1b', 'hint')", 2, "hint"),
    ("t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()", 1, "unexpected ZeroDivisionError"),
    ("raise BrokenPipeError(32, 'Broken pipe')", 2, "Broken pipe"),  # of a child process, say: not our output's
])  # fmt: skip
def test_every_ending_has_its_line_and_code(body, code, words, tmp_path):
    assert words in said(ended(body, {"XDG_STATE_HOME": str(tmp_path)}), code)


def test_a_gates_table_keeps_its_lines_and_loses_its_escapes():
    result = ended("raise GateRefused('a table\\nof \\x1b[2J lines')")
    assert (result.returncode, result.stderr) == (3, "himix: error: a table\nof \\x1b[2J lines\n")


def test_output_that_cannot_be_written_is_an_error():
    with Path("/dev/full").open("w") as full:
        for body in ("print('x')", "click.echo('x' * 10**5)", "sys.stdout.write('x')"):
            assert "No space left" in said(ended(body, stdout=full), 2)
        assert ended("pass", stdout=full).returncode == 0  # nothing was lost
    closed = ended("print('x')", preexec_fn=lambda: os.close(1), stdout=None)
    assert "standard output: Bad file descriptor" in said(closed, 2)


def test_a_file_opened_by_the_program_is_not_taken_for_a_closed_stream(tmp_path):
    body = f"file = open({str(tmp_path / 'file')!r}, 'w')\nfile.write('kept')\nprint('x', file=sys.stderr)"
    ended(body, preexec_fn=lambda: os.closerange(0, 3), stdout=None)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    for body in ("print('x' * 10**6)", "click.echo('x')", "from rich.console import Console\nConsole().print('x')"):
        result = ended(body, stdout=writer)
        assert (result.returncode, result.stderr) == (0, "")
    os.close(writer)


def test_text_that_an_encoding_lacks_is_written_out():
    body = "print('é ┃ \\udcff')\nraise InputError('ü')"
    result = ended(body, {"PYTHONIOENCODING": "ascii:strict"})
    assert result.stdout.strip() == "\\xe9 \\u2503 \\udcff"
    assert "\\xfc" in said(result, 2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_leaves_nothing_behind(name, tmp_path):
    body = (
        f"import os, signal, pathlib\nfile = pathlib.Path({str(tmp_path / 'staged')!r})\nfile.touch()\n"
        f"try:\n    os.kill(os.getpid(), signal.{name})\n    for _ in range(100): pass\nfinally:\n    file.unlink()"
    )
    assert f"ended by {name}" in said(ended(body), 128 + getattr(signal, name))
    assert not list(tmp_path.iterdir())


def test_one_line_keeps_what_can_be_seen():
    assert one_line("  /a  b/é: tab\there \n\r\n  next\u202e ") == "/a  b/é: tab\there next\\u202e"


def test_a_missing_package_travels_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(BackendMissing("peft", "train")))
    assert "himix-edge[train]" in str(error)


def test_names_with_brackets_are_no_markup(capsys):
    print_table("[/title]", ("name",), [("[red]x[/red] [/y]",), ("\x1b[2J",)])
    out = capsys.readouterr().out
    assert "[/title]" in out
    assert "[red]x[/red] [/y]" in out
    assert "\x1b[2J" not in out
    with progress_console.status("[/x]") as status:
        status.update("[/y]")
    assert list(track([1, 2], "[/z]")) == [1, 2]


def test_json_has_no_nan(capsys):
    print_json({"a": [float("nan"), 1.5, (float("inf"), "NaN")]})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, [None, "NaN"]]}


def test_a_size_of_the_terminal_that_is_none_is_passed_over():
    code = "import himix_edge.cli.console as c; c.print_table('t', ('x',), [(1,)]); print(c.progress_console.width)"
    for columns in ("99999999999", "-1", "0", "\u00b2", "x" * 10000):
        env = {**os.environ, "COLUMNS": columns}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        assert int(result.stdout.split()[-1]) <= 1000
