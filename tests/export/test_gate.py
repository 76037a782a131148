"""The gate refuses planted faults, in every target: bugs that ship easily and show only as slightly wrong answers.

A fault is planted in what the target traces or writes, while the gate keeps the right reference.
"""

import copy
import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from himix_edge.errors import GateRefused
from himix_edge.export import graphs
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.export.traces import Trace, distance, encoder, noise_of
from himix_edge.model.decoder import rope_tables
from himix_edge.runtimes.registry import all_runtimes
from tests.conftest import FEW, TINY


def in_the_model(change):
    """A fault in the modules that are traced."""

    def plant(monkeypatch, work):
        stages = work.target.stages

        def faulty(model, options):
            wrong = copy.deepcopy(model.reference)
            change(wrong)
            return stages(dataclasses.replace(model, reference=wrong), options)

        monkeypatch.setattr(work.target, "stages", faulty)
        if work.target.name == "coreml":  # its exact check converts anew; a fault in its own code would be there too
            exact = work.target.exact_engine

            def faulty_exact(model, bundle, scratch):
                wrong = copy.deepcopy(model.reference)
                change(wrong)
                return exact(dataclasses.replace(model, reference=wrong), bundle, scratch)

            monkeypatch.setattr(work.target, "exact_engine", faulty_exact)

    return plant


def double_one_scale(model):
    model.model.layers[1].mlp.up_proj.scale *= 2


def swap_key_and_value(model):
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.k_proj_img, attention.v_proj_img = attention.v_proj_img, attention.k_proj_img


def transpose_image(model):
    forward = model.vision_tower.forward
    model.vision_tower.forward = lambda pixels: forward(pixels.transpose(1, 2))


def take_another_mean_and_std(model):
    """ImageNet's, for a tower that wants 0.5."""
    model.vision_tower.mean = torch.tensor([0.485, 0.456, 0.406]) * 255
    model.vision_tower.std = torch.tensor([0.229, 0.224, 0.225]) * 255


def place_text_behind_the_image(monkeypatch, work):
    def shifted(config, positions):
        return rope_tables(config, positions + TINY.vision.num_tokens)

    for module in ("export.graphs", "export.targets.onnx.target"):
        monkeypatch.setattr(f"himix_edge.{module}.rope_tables", shifted)


def align_mask_top_left(monkeypatch, work):
    """Text sees the cache's first slots only, as scaled_dot_product_attention(is_causal=True) would have it."""
    name = work.target.name
    module = f"himix_edge.export.targets.{name}.target"
    if name == "openvino":
        monkeypatch.setattr(f"{module}.causal_mask", lambda new, past: graphs.causal_mask(new, past) & (
            torch.arange(past + new)[None] <= torch.arange(new)[:, None]))  # fmt: skip
    elif name == "coreml":
        monkeypatch.setattr(
            f"{module}.slot_mask", lambda steps, filled, slots: graphs.slot_mask(steps, filled * 0, slots)
        )
    elif name == "litert":
        module = "himix_edge.export.targets.litert.modules"
        right = importlib.import_module(module).slot_scores
        monkeypatch.setattr(f"{module}.slot_scores", lambda slots, filled: right(slots, filled * 0))
    elif name == "executorch":
        right = work.target.stages.__globals__["attention"]
        monkeypatch.setattr(f"{module}.attention", lambda query, keys, values, filled: right(query, keys, values, 0))
    else:
        right = work.target.stages.__globals__["group_query_attention"]

        def fused(config, inputs):  # the operator takes lengths: those of the text alone
            positions = inputs[-1]
            lengths = [positions[:, -1].int(), (positions[0, -1] + 1).int()]
            return right(config, [*inputs[:5], *lengths, *inputs[7:]])

        monkeypatch.setattr(f"{module}.group_query_attention", fused)


def truncate_the_weights(monkeypatch, work):
    stages = work.target.stages

    def truncating(*arguments):
        def cut(write):
            def truncated(folder):
                files = write(folder)
                largest = max(files, key=lambda file: file.stat().st_size)
                with largest.open("r+b") as file:
                    file.truncate(largest.stat().st_size * 2 // 3)
                return files

            return truncated

        writers = stages(*arguments)
        return {**writers, "decoder": cut(writers["decoder"])}

    monkeypatch.setattr(work.target, "stages", truncating)


FAULTS = {
    "one layer's scale doubled": (in_the_model(double_one_scale), "model.layers.1.mlp.up_proj.weight"),
    "key and value swapped": (in_the_model(swap_key_and_value), "vision_injector: key"),
    "text placed at N, N+1, ...": (place_text_behind_the_image, "decoder"),
    "image transposed": (in_the_model(transpose_image), "vision_encoder"),
    "another mean and std": (in_the_model(take_another_mean_and_std), "vision_encoder"),
    "causal mask aligned top left": (align_mask_top_left, "decoder"),
    "weight file truncated": (truncate_the_weights, ""),
}


QUICK = ("one layer's scale doubled", "image transposed", "causal mask aligned top left", "weight file truncated")


def cases():
    """All faults in all targets. The gate is the same code for each, so most are slow."""
    for target in (runtime.name for runtime in all_runtimes() if runtime.in_all):
        for fault in FAULTS:
            yield pytest.param(target, fault, marks=() if target == "onnx" and fault in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("target", "fault"), cases())
def test_a_planted_fault_is_refused(tmp_path, tiny_checkpoint, monkeypatch, fault, target):
    """Slow: adds the other targets, and faults of a kind that another one stands for."""
    plant, role = FAULTS[fault]
    work = plan(ExportRequest(str(tiny_checkpoint), target, "int8", tmp_path / "out", probe_questions=FEW))
    plant(monkeypatch, work)
    with pytest.raises(GateRefused) as refusal:
        export(work)
    assert "refused this export" in str(refusal.value)
    if role:
        assert f" {role} " in str(refusal.value)
        assert "FAILED" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_encoded_once_however_many_questions_there_are():
    asked = []

    class Eye:
        def encode(self, pixels):
            asked.append(pixels)
            return pixels + 0.5

    encode = encoder(Eye())
    one, other = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.uint8)
    found = [float(encode(Path(name), pixels).mean()) for name, pixels in (("a", one), ("b", other), ("a", one))]
    assert found == [0.5, 1.5, 0.5]
    assert len(asked) == 2


def test_distance_knows_shapes_and_nan():
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert distance(a, a) == 0
    assert distance(a, a.T) == float("inf")
    for wrong in (np.nan, np.inf):
        broken = np.where(a > 1, wrong, a)
        for pair in ((a, broken), (broken, a), (broken, broken)):
            assert [distance(*pair, rms=rms) for rms in (False, True)] == [float("inf")] * 2
    assert distance(a[:0], a[:0]) == float("inf")  # nothing compared, nothing proven
    huge = a * np.float32(1e30)  # its squares are beyond float32
    assert distance(huge, -huge) == pytest.approx(distance(a, -a), rel=1e-5)
    assert distance(a, a + 0.5) == pytest.approx(0.5 / a.std(), rel=1e-5)
    assert distance(a, a + [[0, 0, 0, 1]] * 3) == pytest.approx(1 / a.std(), rel=1e-5)
    assert distance(a, a + [[0, 0, 0, 1]] * 3, rms=True) == pytest.approx(0.5 / a.std(), rel=1e-5)


def test_what_rounding_costs_is_measured_up_to_where_the_answers_part():
    rng = np.random.default_rng(0)
    features, key, value, logits = (
        rng.standard_normal(shape) for shape in ((1, 4, 8), (2, 2, 4, 8), (2, 2, 4, 8), (5, 9))
    )
    off = logits + 0.1 * rng.standard_normal((5, 9))
    off[3:] += 100  # behind the third token, which differs
    found = noise_of(
        Trace(features, key, value, logits, [1, 2, 3, 4, 5]), Trace(features, key, value, off, [1, 2, 7, 8])
    )
    assert found["vision_encoder"] == 0
    assert 0.03 < found["decoder"] < 0.2
