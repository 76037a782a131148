"""Does it fit? Predicted memory beside measured peaks, and what the commands say about a device."""

import json
from pathlib import Path

import pytest

from benchmarks.memory import measured
from himix_edge.bundle import read_manifest
from himix_edge.device_classes import CLASSES, PROGRAM, find_class, read_bytes, verdict
from himix_edge.errors import InputError
from himix_edge.memory import RULES, Model, of_manifest, predict
from himix_edge.presets import preset
from himix_edge.runtimes.registry import runtime_names
from tests.commands import himix

MB = 10**6
WITHIN = 0.20
# preset and tower, target, bits of the decoder, group size, cache slots of the run; stored bytes of tower, injector and
# decoder; and the peak in MB above the empty runtime that `python -m benchmarks.memory` measured on an AMD EPYC
NANO, SMOL, QWEN = ("nano", None), ("smollm2-135m", None), ("qwen2-0.5b", None)
SIGLIP = ("smollm2-135m", "siglip-base-256")
MEASURED = [
    (NANO, "onnx", 8, 0, 512, (1412986, 170477, 2791591), 28.9),
    (NANO, "onnx", 4, 32, 512, (1412986, 170477, 1663056), 28.1),
    (NANO, "onnx_portable", 8, 0, 128, (1597421, 232842, 3039687), 61.7),
    (NANO, "onnx_portable", 4, 32, 128, (1597421, 232842, 2072516), 43.4),
    (NANO, "openvino", 8, 0, 512, (1439479, 186700, 2977391), 79.8),
    (NANO, "openvino", 4, 32, 512, (1439861, 186773, 1868841), 78.9),
    (NANO, "executorch", 8, 0, 512, (4249472, 4249472, 4249472), 29.4),
    (NANO, "executorch", 4, 32, 512, (3130496, 3130496, 3130496), 27.7),
    (NANO, "litert", 8, 0, 256, (1320576, 149504, 3567040), 32.4),
    (NANO, "litert", 4, 32, 256, (1320576, 149504, 1864128), 29.9),
    (SMOL, "onnx", 8, 0, 2048, (13699252, 14912506, 139655480), 350.8),
    (SMOL, "onnx_portable", 8, 0, 113, (13944056, 15420862, 138487331), 1940.2),
    (SMOL, "openvino", 8, 0, 2048, (13654633, 15110235, 137637144), 456.5),
    (SMOL, "executorch", 8, 0, 2048, (164895360, 164895360, 164895360), 536.3),
    (SMOL, "litert", 8, 0, 256, (13606656, 14914176, 167979520), 411.5),
    (SIGLIP, "onnx", 4, 32, 2048, (80056710, 9032788, 77032586), 385.6),
    (SIGLIP, "openvino", 4, 32, 2048, (79777978, 9231188, 78380858), 541.1),
    (QWEN, "onnx", 4, 128, 2048, (403422278, 7308431, 256049543), 973.3),
    (QWEN, "openvino", 4, 128, 2048, (401331861, 7371819, 256998448), 1623.2),
]


def planned(model: tuple[str, str | None], bits: int, group: int, capacity: int, roles: tuple[int, int, int]) -> Model:
    sizes = dict(zip(("vision_encoder", "vision_injector", "decoder"), roles, strict=True))
    return Model(preset(*model), sizes, {"decoder": bits, "embedding": bits}, group, True, capacity)


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: f"{case[0][0]}-{case[0][1]}-{case[1]}-{case[2]}")
def test_predictions_are_near_measured_peaks(case):
    model, target, *shape, peak = case
    assert predict(target, planned(model, *shape)).peak == pytest.approx(peak * MB, rel=WITHIN)


def test_causes_are_counted_from_shapes():
    # SmolLM2-135M: 30 layers of 576 x (2 * 576 + 2 * 192 + 3 * 1536), a table of 49152 x 576; blocks of 64 in int8
    linears, table = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536), 49152 * 576
    parts = predict("onnx", planned(SMOL, 8, 0, 2048, (1, 2, 3))).parts
    assert parts["decoder, packed"] == (linears + table) * 72 // 64
    assert parts["embedding, to look up"] == table
    assert parts["tower and injector"] == 3
    assert parts["cache"] == 2 * 30 * 192 * 2048 * 4
    half = predict("onnx", planned(SMOL, 8, 0, 1024, (1, 2, 3))).parts
    assert parts["cache"] == 2 * half["cache"]


def test_a_target_has_a_rule_or_is_refused_by_name():
    assert set(RULES) <= set(runtime_names())
    with pytest.raises(InputError, match=r"onnx_qnn.*known: onnx"):
        predict("onnx_qnn", planned(NANO, 8, 0, 512, (1, 1, 1)))
    assert "Apple" in (predict("coreml", planned(NANO, 8, 0, 512, (1, 1, 1))).note or "")


def test_a_verdict_leaves_room_for_what_a_prediction_is_off_by():
    assert verdict(1000 * MB, PROGRAM + 1200 * MB) == "fits"
    assert verdict(1000 * MB, PROGRAM + 1199 * MB) == "tight"
    assert verdict(1000 * MB, PROGRAM + 1000 * MB) == "tight"
    assert verdict(1000 * MB, PROGRAM + 999 * MB) == "does not fit"
    assert find_class("phone-8gb").left == 3_000_000_000  # as an app's share was stated
    assert all(0 < each.left < each.ram for each in CLASSES.values())


@pytest.mark.parametrize(("text", "count"), [("3GB", 3 * 10**9), ("750 mb", 750 * MB), ("1.5GiB", 3 << 29)])
def test_bytes_are_read(text, count):
    assert read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "3", "-1GB", "nan", "1e9GB", "3TB", "3 GB of it", "9" * 50 + "GB"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(InputError, match="--memory"):
        read_bytes(text)


def test_info_says_whether_a_bundle_fits(tiny_bundle):
    fits = himix("info", tiny_bundle, "--device-class", "phone-4gb", "--json")
    found = json.loads(fits.stdout)
    assert (fits.returncode, found["verdict"], found["device_bytes"]) == (0, "fits", 1_500_000_000)
    expected = predict("onnx", of_manifest(tiny_bundle, read_manifest(tiny_bundle)))
    assert found["peak_bytes"] == expected.peak
    assert sum(found["parts_bytes"].values()) <= found["peak_bytes"]
    tight = himix("info", tiny_bundle, "--memory", f"{(expected.peak + PROGRAM) / MB + 1:.3f}MB")
    assert tight.returncode == 0
    assert "tight" in tight.stdout
    small = himix("info", tiny_bundle, "--memory", "100MB")
    assert small.returncode == 3
    assert "does not fit" in small.stdout
    assert "of 100 MB" in small.stderr


def test_a_dry_run_says_what_a_bundle_will_take_to_run(tmp_path):
    options = ["export", "--quant", "int8", "--dry-run", "--json", "--target", "onnx,openvino"]
    result = himix(*options, "--memory", "190MB", cwd=tmp_path)
    found = {each["out"]: each["running"]["verdict"] for each in json.loads(result.stdout)}
    assert list(found.values()) == ["fits", "does not fit"]
    assert result.returncode == 3
    assert "openvino" in result.stderr
    assert json.loads(himix(*options, cwd=tmp_path).stdout)[0]["running"]["peak_bytes"] > MB
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "nano", "--device-class", "pi5"], "export --dry-run"),
        (["info", "nano", "--device-class", "pi9"], "phone-4gb"),
        (["info", "nano", "--device-class", "pi5", "--memory", "3GB"], "one of them"),
        (["info", "nano", "--memory", "much"], "1.5GiB"),
        (["export", "--target", "onnx", "--memory", "3GB"], "--dry-run"),
        (["export", "--target", "onnx_qnn", "--dry-run", "--memory", "3GB"], "not known"),
    ],
)
def test_questions_that_have_no_answer(arguments, says, tmp_path):
    result = himix(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_nano_takes_what_was_predicted(nano_bundles):
    """The prediction beside this machine's own runtime, in a fresh process; the table above is of another machine."""
    folder: Path = nano_bundles["int8"]
    told = predict("onnx", of_manifest(folder, read_manifest(folder)))
    assert told.peak == pytest.approx(measured(folder)["peak"], rel=0.3)  # a small peak is mostly the runtime's own
