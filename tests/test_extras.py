"""The hints of what to install: each extra exists, and brings the package that was missed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from himix_edge import extras
from himix_edge.runtimes.registry import all_runtimes, extras_of

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CALL = re.compile(r"(?:BackendMissing|extras\.needed)\(\"([^\"]+)\", ([^)]+)\)")


def brought(extra):
    """Names of the packages that an extra brings, those of extras inside it too."""
    found = set()
    for wanted in DECLARED[extra]:
        name, more = re.match(r"([A-Za-z0-9._-]+)(?:\[(.*)\])?", wanted).groups()
        found |= set().union(*map(brought, more.split(","))) if name == "himix-edge" else {name}
    return found


def test_every_hint_names_an_extra_that_brings_the_package():
    calls = []
    for folder in ("himix_edge", "export", "runtimes"):
        for path in (ROOT / folder).rglob("*.py"):
            calls += [(path.name, *found) for found in CALL.findall(path.read_text())]
    assert len(calls) > 10
    for where, package, extra in calls:
        assert not extra.startswith('"'), f"{where}: {extra} is not from the table"
        if extra.startswith("extras."):
            assert package in brought(getattr(extras, extra.removeprefix("extras."))), (where, package, extra)


def test_every_targets_extras_bring_its_packages():
    for runtime in all_runtimes():
        assert {"torch", *runtime.packages} <= brought(runtime.extra), runtime.name
        assert set(runtime.packages) <= brought(runtime.runs_with), runtime.name


@pytest.mark.parametrize(("target", "extra"), [
    ("onnx_portable", "onnx"), ("openvino", "openvino"), ("coreml, onnx,onnx_portable", "coreml,onnx"),
])  # fmt: skip
def test_an_export_names_its_own_targets_extras(target, extra):
    assert extras_of(target) == extra


def test_a_bare_install_is_told_what_its_target_needs(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from himix_edge.cli import main; main()"
    for arguments, extra in ((["export", "--target", "openvino"], "openvino"), (["run", "--prompt", "x"], "torch"),
                             (["convert", "x", "--out", "y"], "convert"), (["train"], "train")):  # fmt: skip
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 4, result.stderr
        assert result.stderr.endswith(f"pip install 'himix-edge[{extra}]'\n")
