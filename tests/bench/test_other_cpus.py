"""The bundles' tokens on CPUs that this machine is not, and in C++: what `python -m benchmarks.other_cpus` proves.

Slow: it fetches 0.6 GB of packages once, into build/; as root it also installs Debian's compilers.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.arm64 import CPU_MODELS, prepare
from benchmarks.executorch_runner import WORK, arguments_for, ask, native
from benchmarks.other_cpus import Row, compare, on_x86_64, prove
from himix_edge.bundle import MANIFEST
from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.runtimes.verifying import open_verified
from tests.export.test_onnx_int8 import int8_linear

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="proves other CPUs from an x86-64 machine"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, nano_bundles) -> dict[str, Path]:
    """nano in int8, by target."""
    folder = tmp_path_factory.mktemp("other-cpus")
    for target in ("openvino", "executorch"):
        export(plan(ExportRequest("nano", target, "int8", folder / target)))
    return {"onnx": nano_bundles["int8"], "openvino": folder / "openvino", "executorch": folder / "executorch"}


@pytest.fixture
def other_truth(tmp_path, bundles) -> dict[str, Path]:
    """The same bundles with another expected token in their self-test."""
    changed = {}
    for target, bundle in bundles.items():
        changed[target] = shutil.copytree(bundle, tmp_path / target)
        manifest = json.loads((bundle / MANIFEST).read_text())
        manifest["selftest"]["token_ids"][0] += 1
        (changed[target] / MANIFEST).write_text(json.dumps(manifest))
    return changed


def test_the_same_tokens_on_arm64_and_in_cpp(bundles):
    rows = prove(list(bundles.values()))
    assert [(row.cpu, row.tokens) for row in rows if not row.passed] == []
    # ExecuTorch also runs here, in C++; the others on an older x86-64
    assert len(rows) == len(bundles) * len(CPU_MODELS) + len(bundles)


def test_other_tokens_are_a_row_that_differs(other_truth):
    rows = prove(list(other_truth.values()), ["max"])
    assert [row.passed for row in rows] == [False] * 6
    assert all("self-test" in row.tokens for row in rows)


def test_int8_sums_do_not_overflow_without_vnni(tmp_path):
    """The largest weights and activations: ONNX Runtime's AVX2 kernel adds two products in 16 bits if it is let."""
    x, packed, scale = np.full((1, 8, 64), 2, np.float32), np.full((64, 32), 127, np.int8), np.ones(32, np.float32)
    onnx.save(int8_linear(packed, scale, x.shape), tmp_path / "graph.onnx")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from himix_edge.runtimes.onnx.engine import open_graph\n"
        "graph, x = open_graph(Path(sys.argv[1], 'graph.onnx'), 1), np.load(Path(sys.argv[1], 'x.npy'))\n"
        "np.save(Path(sys.argv[1], 'y.npy'), graph.run(None, {'x': x})[0])"
    )
    subprocess.run(on_x86_64(prepare(WORK), "-P", "-c", script, tmp_path), check=True)
    assert np.load(tmp_path / "y.npy") == pytest.approx(2 * 127 * 64, rel=1e-5)


def test_one_different_token_in_any_answer_fails(bundles):
    row = compare(bundles["onnx"], "", "", [[1, 2], [3]], lambda: [[1, 2], [4]])
    assert not row.passed
    assert row.tokens == "self-test equal, 1 of 2 equal"
    assert not Row("b", "", "", (), 1.0).passed


def test_an_unknown_cpu_is_one_line(bundles):
    with pytest.raises(InputError, match="CPU model 'pentium'"):
        prove([bundles["onnx"]], ["pentium"])


def test_cpp_runner_without_an_image_and_with_one_thread(bundles, tmp_path):
    bundle = open_verified(bundles["executorch"])
    arguments = arguments_for(bundle, "hello", None, tmp_path / "pixels.rgb", 4)
    first, second = ask([str(native())], [*arguments, "--runs", "2", "--threads", "1"])
    assert first["token_ids"] == second["token_ids"]
    assert (first["vision_tokens"], first["vision_encoder"]) == (0, 0)
    assert len(first["inter_token"]) in (len(first["token_ids"]) - 1, len(first["token_ids"]))
    assert first["prefill"] > 0
    assert first["peak_rss"] > 1 << 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--prompt 1", "--model and --prompt are needed"),
        ("--model nowhere.pte --prompt 1", "nowhere.pte: No such file"),
        ("--model {other} --prompt 1", "not an ExecuTorch program"),
        ("--model {cut} --prompt 1", "not an ExecuTorch program"),
        ("--model {model} --prompt 1,x", "'x' is not a whole number"),
        ("--model {model} --prompt 99999", "out of range"),
        ("--model {model} --prompt 1 --pixels {other}", "this model takes 64 x 64 x 3"),
        ("--model {model} --prompt 1 --pixels nowhere.rgb", "nowhere.rgb: cannot be read"),
        ("--model {model} --prompt {long}", "the model has 512"),
        ("--model {model} --colour red", "no option --colour"),
        ("--model", "--model needs a value"),
    ],
)
def test_cpp_runner_refuses_bad_input_in_one_line(bundles, tmp_path, arguments, said):
    model = open_verified(bundles["executorch"]).role_path("decoder")
    cut = tmp_path / "cut.pte"
    cut.write_bytes(model.read_bytes()[:100_000])
    places = {"model": model, "cut": cut, "other": Path(__file__), "long": ",".join(["1"] * 512)}
    command = [str(native()), *(word.format(**places) for word in arguments.split())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
