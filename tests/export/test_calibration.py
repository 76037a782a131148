"""Calibrated rounding: better where it counts, never worse, and what a policy file may say."""

import dataclasses
import json

import pytest
import torch

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.checkpoints.source import random_source
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export.pipeline import PROBE, ExportRequest, plan
from himix_edge.export.quantization.calibration import Statistics, calibrate, output_error, round_weight
from himix_edge.export.quantization.passages import conversation_passages
from himix_edge.export.quantization.policy import POLICIES, read_policy, role_bits
from himix_edge.export.quantization.smoothing import largest_inputs, smooth
from himix_edge.export.quantization.tensors import quantize, quantize_tensor
from himix_edge.export.quantization.tuning import divergence, tune
from himix_edge.export.targets import find_target
from himix_edge.model.sampled_text import sample_texts
from tests.conftest import TINY


def correlated(columns, seed=0):
    """Statistics of inputs that share a few directions, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(8, columns, generator=generator)
    x = torch.randn(2000, 8, generator=generator) @ directions + 0.1 * torch.randn(2000, columns, generator=generator)
    statistics = Statistics(torch.zeros(columns, columns))
    statistics.add(x)
    return x, statistics


def test_what_a_linear_puts_out_is_closer_than_with_plain_rounding():
    x, statistics = correlated(128)
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(1))
    calibrated, plain = round_weight(weight, statistics, 32, 0.01), quantize_tensor(weight, 4, 32)
    errors = [float((x @ (weight - q.dequantize()).T).square().mean()) for q in (calibrated, plain)]
    assert errors[0] < 0.3 * errors[1]
    assert calibrated.values.dtype == torch.int8
    assert int(calibrated.values.min()) >= -8
    assert int(calibrated.values.max()) <= 7
    assert torch.equal(calibrated.scale, calibrated.scale.to(torch.bfloat16).float())


def test_independent_inputs_leave_nothing_to_make_up_for():
    """With a diagonal Hessian GPTQ is rounding to nearest at the searched scale."""
    statistics = Statistics(torch.eye(64) * 100, 100)
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    made = round_weight(weight, statistics, 32, 0.01)
    scale = made.scale.repeat_interleave(32, 1)
    assert torch.equal(made.values.float(), (weight / scale).round().clamp(-8, 7))
    plain = quantize_tensor(weight, 4, 32)
    assert output_error(weight, made, torch.eye(64)) <= output_error(weight, plain, torch.eye(64))


def test_inputs_that_say_nothing_leave_plain_rounding():
    weight = torch.randn(4, 32)
    for total in (torch.zeros(32, 32), torch.full((32, 32), torch.nan)):
        made = round_weight(weight, Statistics(total, 1), 32, 0.01)
        assert torch.equal(made.values, quantize_tensor(weight, 4, 32).values)


def test_nano_keeps_its_answers_better():
    """On the probe's conversations: logits closer to the float model's than after plain rounding."""
    source = open_source("nano")
    policy = POLICIES["int4"]
    exact = quantize(source, POLICIES["none"]).reference
    samples, text = load_llava(PROBE).samples, source.load_text()
    passages = [passage for sample in samples for passage in conversation_passages(exact, text, sample)]
    made = calibrate(source.config, source.weights, passages, lambda name: role_bits(name, policy), 32)
    calibrated, plain = quantize(source, policy, made), quantize(source, policy)
    assert made.keys() == {name for name, tensor in plain.tensors.items() if tensor.bits == 4}
    errors = []
    for model in (calibrated.reference, plain.reference):
        off = 0.0
        for passage in passages:
            past = [model.start([row for row in passage.image if row]) for _ in range(2)]
            with torch.inference_mode():
                expected, got = (m.decode(passage.ids[None], p)[0] for m, p in zip((exact, model), past, strict=True))
            off += float((expected - got).square().mean())
        errors.append(off)
    assert errors[0] < 0.7 * errors[1]
    assert all(found.steps <= found.limit for found in calibrated.deviation.values())


def test_a_language_model_writes_its_own_text(text):
    source = dataclasses.replace(random_source(TINY, "tiny"), load_template=lambda: text.template)
    source = dataclasses.replace(source, load_tokenizer=lambda: text.tokenizer)
    model = quantize(source, POLICIES["none"]).reference
    first, again = sample_texts(model, 2, 5), sample_texts(model, 2, 5)
    assert first.shape == (2, 5)
    assert torch.equal(first, again)


def test_tuning_brings_the_model_closer_and_leaves_the_integers():
    """On text that was not tuned on, too: the same distribution, another draw."""
    source = open_source("nano")
    exact = quantize(source, POLICIES["none"]).reference
    texts = sample_texts(exact, 40, 24)
    before = quantize(source, POLICIES["int4"])
    apart = float(divergence(before.reference, exact, texts[32:]))
    steps = []
    tuned, norms = tune(
        quantize(source, POLICIES["int4"]), exact, texts[:32], lambda step, of: steps.append((step, of))
    )
    assert steps[-1] == (16, 16)
    assert tuned.keys() == {name for name, tensor in before.tensors.items() if tensor.bits == 4}
    for name, tensor in tuned.items():
        assert torch.equal(tensor.values, before.tensors[name].values)
        assert torch.equal(tensor.scale, tensor.scale.to(torch.bfloat16).float())
    assert len(norms) == 2 * source.config.decoder.num_hidden_layers + 1
    after = quantize(
        dataclasses.replace(source, weights={**source.weights, **as_weights(norms)}), POLICIES["int4"], tuned
    )
    assert float(divergence(after.reference, exact, texts[32:])) < 0.9 * apart
    assert all(found.steps <= found.limit for found in after.deviation.values())


@pytest.mark.parametrize("case", ["qwen2_tied", "llama_untied"])
def test_a_smoothed_model_computes_the_same(case):
    source = open_source(f"tests/golden/{case}")
    model = quantize(source, POLICIES["none"]).reference
    texts = torch.arange(60).reshape(4, 15)
    largest = largest_inputs(model, texts)
    assert len(largest) == 3 * source.config.decoder.num_hidden_layers
    smoothed = dataclasses.replace(source, weights=smooth(source.weights, largest))
    names = ["model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"]
    for name in names:
        assert not torch.equal(smoothed.weights[name].read(), source.weights[name].read())
    with torch.inference_mode():
        expected, found = (m(texts) for m in (model, quantize(smoothed, POLICIES["none"]).reference))
    assert float((expected - found).abs().max()) < 1e-4 * float(expected.std())


def test_an_outlier_channel_costs_less_when_it_is_smoothed():
    """One channel is fifty times the others, and takes an int8 activation's whole range; its weights are small."""
    source = open_source("tests/golden/llama_untied")
    loud = {}
    for layer in range(source.config.decoder.num_hidden_layers):
        for part, factor in (("post_attention_layernorm", 50), ("mlp.gate_proj", 1 / 50), ("mlp.up_proj", 1 / 50)):
            name = f"model.layers.{layer}.{part}.weight"
            loud[name] = source.weights[name].read().clone()
            loud[name][..., 7] *= factor
    source = dataclasses.replace(source, weights={**source.weights, **as_weights(loud)})
    model = quantize(source, POLICIES["none"]).reference
    texts = torch.arange(120).reshape(8, 15)
    smoothed = dataclasses.replace(source, weights=smooth(source.weights, largest_inputs(model, texts)))
    errors = []
    with torch.inference_mode():
        expected = model(texts)
        for given in (source, smoothed):
            emulated = find_target("executorch").exact_reference(quantize(given, POLICIES["int8"]))
            errors.append(float((emulated(texts) - expected).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def policy_file(folder, text):
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_a_policy_file_changes_roles_groups_and_single_modules(tmp_path):
    path = policy_file(
        tmp_path, 'embedding: 8\ngroup_size: 64\noverrides:\n  "model.layers.0.*": 8\n  "*.up_proj": 32\n'
    )
    policy = read_policy(path, POLICIES["int4"])
    assert (policy.embedding, policy.group_size, policy.decoder) == (8, 64, 4)
    names = {"model.layers.0.mlp.up_proj": 8, "model.layers.1.mlp.up_proj": 32, "model.layers.1.mlp.gate_proj": 4}
    assert {name: role_bits(name, policy) for name in names} == names
    made = plan(ExportRequest("nano", "onnx", "int4", tmp_path / "out", policy=path))
    assert made.policy == policy


@pytest.mark.parametrize(("overrides", "message"), [
    ({"model.layer.0.*": 8}, "'model.layer.0.[*]' fits no weight of the model; there are model.layers.0"),
    ({"model.layers.0.input_layernorm": 8}, "fits no weight"),  # a norm is never quantised
    ({"*.up_proj": 8, "model.layers.0.mlp.up_proj": 32}, "'model.layers.0.mlp.up_proj' decides nothing"),
])  # fmt: skip
def test_an_override_that_decides_nothing_is_refused(tmp_path, overrides, message):
    path = policy_file(tmp_path, json.dumps({"overrides": overrides}))
    with pytest.raises(InputError, match=message):
        plan(ExportRequest("nano", "onnx", "int4", tmp_path / "out", policy=path))


def test_what_is_calibrated_by_default(tmp_path):
    def chosen(model, precision, **more):
        return plan(ExportRequest(model, "onnx", precision, tmp_path / "out", **more)).rounding

    assert [chosen("nano", precision) for precision in ("none", "int8", "int4")] == ["nearest", "nearest", "gptq"]
    assert chosen("nano", "int4", random_weights=True) == "nearest"
    assert chosen("nano", "int4", rounding="nearest") == "nearest"
    with pytest.raises(InputError, match="writes no text to tune on"):
        chosen("nano", "int4", rounding="tuned")


@pytest.mark.parametrize(("content", "message"), [
    ("decoder: 3", "decoder: Input should be 4, 8 or 32"), ("decder: 4", "decder"), ("- 4", "should be an object"),
    ("a: [", "not valid YAML"), ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ("group_size: 48", "group_size"), ("group_size: '64'", "group_size"),
    ("decoder: true", "decoder"), ("overrides: {'*.up_proj': '8'}", "overrides.*8"), ("decoder: 2001-99-99", "YAML"),
    ("decoder: &a 4\nembedding: *a", "anchors"), ("decoder: 2001-01-01", "date is not JSON"),
])  # fmt: skip
def test_a_policy_file_that_is_wrong(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_policy(policy_file(tmp_path, content), POLICIES["int4"])
    with pytest.raises(InputError, match="no such file"):
        read_policy(tmp_path / "none.yaml", POLICIES["int4"])
