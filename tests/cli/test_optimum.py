"""`optimum-cli export himix`: optimum's own command finds it, and it is `himix export` in all but its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from himix_edge import open_bundle

ROOT = Path(__file__).parents[2]
NAME = "optimum-cli export himix"
OPTIMUM = "from optimum.commands.optimum_cli import main; main()"
OURS = "from himix_edge.cli import export_main; export_main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What setuptools installs, outside the clone."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", folder], cwd=ROOT, check=True)
    return folder


def run(code, *arguments, path):
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "100"}
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--target", "onnx", "--dry-run", "--json"], 0),
        (["--target=nope"], 2),
        (["--", "-x"], 2),
    ],
)
def test_it_says_and_returns_what_himix_export_does(installed, arguments, code):
    theirs = run(OPTIMUM, "export", "himix", *arguments, path=installed)
    ours = run(OURS, *arguments, path=installed)
    assert theirs.returncode == ours.returncode == code, theirs.stderr
    plain = [text.replace(NAME, "himix-export").split() for text in (theirs.stdout, theirs.stderr)]
    assert plain == [ours.stdout.split(), ours.stderr.split()]
    assert bool(ours.stderr) == bool(code)


def test_optimum_lists_it_once_however_often_it_is_there(installed):
    """A clone in front of an installed package is found twice."""
    for path in (installed, f"{ROOT}{os.pathsep}{installed}"):
        shown = run(OPTIMUM, "export", "--help", path=path)
        assert shown.stdout.count("As himix export") == 1, shown.stderr


@pytest.mark.slow
def test_it_exports(installed, tiny_checkpoint, tmp_path):
    """Adds a whole export to the plan of one that the tests above compare."""
    out = tmp_path / "bundle"
    arguments = ["--target", "onnx_portable", "--quant", "none", "--model", tiny_checkpoint, "--probe-questions", 1]
    done = run(OPTIMUM, "export", "himix", *arguments, "--out", out, path=installed)
    assert done.returncode == 0, done.stderr
    assert open_bundle(out).answer("what is it?", max_new_tokens=2) is not None
