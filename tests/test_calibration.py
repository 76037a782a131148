"""Calibrated rounding: better where it counts, never worse, and what a policy file may say."""

import dataclasses

import pytest
import torch

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.source import random_source
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export.calibration import Statistics, calibrate, output_error, round_weight
from himix_edge.export.passages import gather, write
from himix_edge.export.pipeline import PROBE, ExportRequest, plan
from himix_edge.export.policy import POLICIES, read_policy, role_bits
from himix_edge.export.quantisation import quantise, quantise_tensor
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
    calibrated, plain = round_weight(weight, statistics, 32, 0.01), quantise_tensor(weight, 4, 32)
    errors = [float((x @ (weight - q.dequantise()).T).square().mean()) for q in (calibrated, plain)]
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
    plain = quantise_tensor(weight, 4, 32)
    assert output_error(weight, made, torch.eye(64)) <= output_error(weight, plain, torch.eye(64))


def test_inputs_that_say_nothing_leave_plain_rounding():
    weight = torch.randn(4, 32)
    for total in (torch.zeros(32, 32), torch.full((32, 32), torch.nan)):
        made = round_weight(weight, Statistics(total, 1), 32, 0.01)
        assert torch.equal(made.values, quantise_tensor(weight, 4, 32).values)


def test_nano_keeps_its_answers_better():
    """On the probe's conversations: logits closer to the float model's than after plain rounding."""
    source = open_source("nano")
    policy = POLICIES["int4"]
    passages = gather(source, load_llava(PROBE).samples)
    made = calibrate(source.config, source.weights, passages, lambda name: role_bits(name, policy), 32)
    calibrated, plain = quantise(source, policy, made), quantise(source, policy)
    assert made.keys() == {name for name, tensor in plain.tensors.items() if tensor.bits == 4}
    exact = quantise(source, POLICIES["none"]).reference
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
    model = quantise(source, POLICIES["none"]).reference
    first, again = write(model, 2, 5), write(model, 2, 5)
    assert [p.ids.tolist() for p in first] == [p.ids.tolist() for p in again]
    assert {len(p.ids) for p in first} == {5}


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


@pytest.mark.parametrize(("content", "message"), [
    ("decoder: 3", "decoder: Input should be 4, 8 or 32"), ("decder: 4", "decder"), ("- 4", "valid dictionary"),
    ("a: [", "not a readable YAML file"), ("!!python/object/apply:os.system ['true']", "not a readable YAML file"),
    ("group_size: 48", "group_size"),
])  # fmt: skip
def test_a_policy_file_that_is_wrong(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_policy(policy_file(tmp_path, content), POLICIES["int4"])
    with pytest.raises(InputError, match="no such file"):
        read_policy(tmp_path / "none.yaml", POLICIES["int4"])
