"""`import himix_edge as hx`: what it offers, and that offering it needs neither PyTorch nor a runtime."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import himix_edge as hx
from himix_edge import runtimes

HEAVY = ("torch", "onnxruntime", "onnx", "openvino", "executorch", "coremltools", "transformers", "numpy", "PIL")
WITHOUT = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY}:
            raise ImportError(name + " is blocked here")

sys.meta_path.insert(0, Refuse())
import himix_edge as hx
assert set(hx.__all__) <= set(dir(hx))
for name in ("HimixError", "InputError", "GateRefused", "BackendMissing"):
    assert issubclass(getattr(hx, name), hx.HimixError)
"""


def test_importing_needs_neither_torch_nor_a_runtime():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bundles_are_opened_without_torch():
    blocked = WITHOUT.replace(str(HEAVY), str(("torch", "executorch", "coremltools", "transformers")))
    code = f"{blocked}\nassert hx.open_bundle and hx.Session and hx.ImageKV; assert 'onnxruntime' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in hx.__all__ if name != "__version__"])
def test_every_name_is_there_and_says_what_it_does(name):
    found = getattr(hx, name)
    assert callable(found)
    assert inspect.getdoc(found)


def test_the_documentation_names_all_of_it():
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: himix_edge\.([A-Za-z_.]+)$", page, re.MULTILINE))
    assert set(hx.__all__) - {"__version__"} <= shown
    assert {f"runtimes.{name}" for name in runtimes.__all__ if name not in hx.__all__} <= shown
    assert "`himix_edge.__version__`" in page


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'opne_bundle'"):
        _ = hx.opne_bundle


@pytest.mark.parametrize("wrong", [None, 5, b"x", ["nano"]])
def test_what_is_no_path_is_one_line(wrong, tmp_path):
    calls = [
        lambda: hx.open_bundle(wrong),
        lambda: hx.load_checkpoint(wrong),
        lambda: hx.ImageKV.load(wrong),
        lambda: hx.ExportRequest("nano", "onnx", "int8", out=wrong),
    ]
    for call in calls:
        with pytest.raises(hx.InputError, match="is no path"):
            call()
    assert hx.ExportRequest("nano", "onnx", "int8", str(tmp_path)).out == tmp_path


@pytest.mark.parametrize("threads", [-1, 0, "2", 1.5, True, 5000])
def test_threads_are_a_number(threads, tmp_path):
    with pytest.raises(hx.InputError, match="threads is"):
        hx.open_bundle(tmp_path, threads=threads)
