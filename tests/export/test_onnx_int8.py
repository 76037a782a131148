"""The int8 linears of ONNX's towers and injectors, against NumPy."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import helper, numpy_helper

from himix_edge.export.quantization.tensors import QuantizedTensor
from himix_edge.export.targets.onnx import int8_linear as onnx_int8
from himix_edge.runtimes.onnx.engine import LARGEST_SUM, int8_sums_overflow, open_graph

OPSET = 23


def int8_linear(packed, scale, shape, int8_activations=True):
    """A graph x -> y with one `Int8Linear`."""
    weights = [numpy_helper.from_array(packed, "packed"), numpy_helper.from_array(scale, "scale")]
    node = helper.make_node(onnx_int8.NAME, ["x", "packed", "scale"], ["y"], domain=onnx_int8.DOMAIN)
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [*shape[:-1], last])
        for name, last in zip("xy", packed.shape, strict=True)
    )
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(onnx_int8.DOMAIN, 1)],
    )
    model.functions.append(onnx_ir.to_proto(onnx_int8.function(OPSET, int8_activations)))
    model.ir_version = 10
    return model


def computed(tmp_path, x, packed, scale, int8_activations):
    onnx.save(int8_linear(packed, scale, x.shape, int8_activations), tmp_path / "graph.onnx")
    return open_graph(tmp_path / "graph.onnx", 1).run(None, {"x": x})[0]


@pytest.fixture(params=[(49, 128, 256), (16, 48, 40)])
def case(request):
    """Rows of very different sizes, one of zeros; odd and even sizes, which ONNX Runtime rewrites differently."""
    count, columns, rows = request.param
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, count, columns)) * np.logspace(-6, 4, count)[:, None]).astype(np.float32)
    x[0, 3] = 0
    packed = rng.integers(-127, 128, (columns, rows)).astype(np.int8)
    return x, packed, rng.random(rows).astype(np.float32) * 0.01


def test_float_activations_are_exact(tmp_path, case):
    x, packed, scale = case
    expected = x.astype(np.float64) @ (packed * scale.astype(np.float64))
    off = computed(tmp_path, x, packed, scale, False) - expected
    assert (np.abs(off).max(-1) <= 1e-5 * np.abs(expected).max(-1)).all()


def test_int8_activations_have_a_scale_for_each_row(tmp_path, case):
    x, packed, scale = case
    row = np.maximum(np.abs(x).max(-1, keepdims=True) * np.float32(1 / 127), np.float32(onnx_int8.SMALLEST))
    expected = np.round(x / row).astype(np.int64) @ packed.astype(np.int64) * row.astype(np.float64) * scale
    assert computed(tmp_path, x, packed, scale, True) == pytest.approx(expected, rel=1e-5, abs=1e-30)


def test_the_integers_come_back(tmp_path):
    values = torch.randint(-127, 128, (40, 48), dtype=torch.int8)
    weight = QuantizedTensor(values, torch.rand(40, 1), 8)
    linear = onnx_int8.Int8Linear("name", weight, None)
    read = onnx_int8.unpack(linear.packed.numpy(), linear.scale.numpy())
    assert torch.equal(read.values, values)
    assert torch.equal(read.scale, weight.scale)


def test_the_probe_for_overflow_is_what_it_says():
    graph = onnx.load_from_string(LARGEST_SUM)
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node] == ["MatMulInteger"]
    assert (numpy_helper.to_array(graph.graph.initializer[0]) == np.full((4, 1), 127, np.int8)).all()


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux has this list of the CPU's instructions")
def test_sums_overflow_on_x86_without_vnni_only():
    flags = Path("/proc/cpuinfo").read_text()
    assert int8_sums_overflow() == ("avx2" in flags and "vnni" not in flags)


def test_the_largest_sums_are_right_on_any_cpu(tmp_path):
    x, packed, scale = np.full((1, 8, 64), 2, np.float32), np.full((64, 32), 127, np.int8), np.ones(32, np.float32)
    assert computed(tmp_path, x, packed, scale, True) == pytest.approx(2 * 127 * 64, rel=1e-5)
