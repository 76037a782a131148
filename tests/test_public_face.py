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
