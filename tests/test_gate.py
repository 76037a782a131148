"""The gate refuses planted faults: each one is a bug that ships easily and shows only as slightly wrong answers."""

import numpy as np
import pytest
from onnx import helper, load, numpy_helper, save

from himix_edge.errors import GateRefused
from himix_edge.export.parity import distance
from himix_edge.export.pipeline import ExportRequest, export, plan


def edit_graph(role, change):
    """A fault planted in a written graph."""

    def plant(monkeypatch, work):
        stages = work.target.stages

        def faulty(*arguments):
            writers = stages(*arguments)

            def write(folder):
                files = writers[role](folder)
                graph = load(files[0])
                change(graph.graph)
                save(graph, files[0])
                return files

            return {**writers, role: write}

        monkeypatch.setattr(work.target, "stages", faulty)

    return plant


def double_one_scale(graph):
    tensor = next(i for i in graph.initializer if i.name == "model.layers.1.mlp.up_proj.weight.scale")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))


def swap_key_and_value(graph):
    key, value = graph.output
    key.name, value.name = "vision_value", "vision_key"


def forget_positions(graph):
    for node in graph.node:
        if node.op_type == "GroupQueryAttention":
            del node.input[9:]


def swap_mean_and_std(graph):
    for node in graph.node:
        if node.op_type == "Sub":
            node.op_type = "Div"
        elif node.op_type == "Div":
            node.op_type = "Sub"
            return


def transpose_image(graph):
    """Rows for columns, behind the cast of the pixels."""
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == "image")
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[i] = "transposed"
    graph.node.append(helper.make_node("Transpose", [cast.output[0]], ["transposed"], perm=[0, 2, 1, 3]))


FAULTS = {
    "one layer's scale doubled": (edit_graph("decoder", double_one_scale), "decoder"),
    "key and value swapped": (edit_graph("vision_injector", swap_key_and_value), "vision_injector: key"),
    "text placed at N, N+1, ...": (edit_graph("decoder", forget_positions), "decoder"),
    "image transposed": (edit_graph("vision_encoder", transpose_image), "vision_encoder"),
    "mean and std swapped": (edit_graph("vision_encoder", swap_mean_and_std), "vision_encoder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused(tmp_path, tiny_checkpoint, monkeypatch, fault):
    plant, role = FAULTS[fault]
    work = plan(ExportRequest(str(tiny_checkpoint), "onnx", "int8", tmp_path / "out"))
    plant(monkeypatch, work)
    with pytest.raises(GateRefused) as refusal:
        export(work)
    assert f" {role} " in str(refusal.value)
    assert "FAILED" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_distance_knows_shapes_and_nan():
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert distance(a, a) == 0
    assert distance(a, a.T) == float("inf")
    assert distance(a, np.where(a > 1, np.nan, a)) == float("inf")
    assert distance(a, a + 0.5) == pytest.approx(0.5 / a.std(), rel=1e-5)
    assert distance(a, a + [[0, 0, 0, 1]] * 3) == pytest.approx(1 / a.std(), rel=1e-5)
    assert distance(a, a + [[0, 0, 0, 1]] * 3, rms=True) == pytest.approx(0.5 / a.std(), rel=1e-5)
