"""The latency harness: what a record may say, how answers are checked, verdicts, statistics, reports, comparison."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from himix_edge.bench.compare import compare
from himix_edge.bench.digest import token_digest
from himix_edge.bench.facts import kv_bytes_per_token, weight_bytes_per_token
from himix_edge.bench.job import Item, Job, Question
from himix_edge.bench.measuring import Asked, Measurement
from himix_edge.bench.page import html_page
from himix_edge.bench.plan import Plan
from himix_edge.bench.probes import Probe, energy_used
from himix_edge.bench.record import Device, Record, Samples, read_records, write_records
from himix_edge.bench.report import markdown
from himix_edge.bench.running import measure_here
from himix_edge.bench.session_subject import exactly
from himix_edge.bench.statistics import mann_whitney, ratio_interval
from himix_edge.bench.summary import label
from himix_edge.bench.verdict import judge, spread
from himix_edge.bundle import Bundle, read_manifest
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import GateRefused, InputError
from himix_edge.presets import SHIPPED
from himix_edge.runtimes import ImageKV, open_bundle

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
TIMES = ("ttft", "prefill", "warm_ttft", "inter_token")


def record(name: str = "nano-onnx-int8", scale: float = 1.0, **changes) -> Record:
    """A plausible record; `scale` stretches its times."""
    rng = np.random.default_rng(1)
    samples = {metric: list(scale * rng.uniform(9.8, 10.2, 20)) for metric in (*TIMES, "vision_encoder")}
    content = {
        "schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "himix bench nano", "harness": "himix 0.1",
        "device": {"name": "here", "read_bandwidth_gb_s": 20.0},
        "bundle": {"name": name, "target": "onnx", "precision": "int8", "bytes": 4_000_000,
                   "weight_bytes_per_token": 2_000_000, "kv_bytes_per_token": 4096},
        "settings": {"warm_up": 3, "timed": 20, "vision_tokens": 64}, "samples": samples,
        "memory": {"baseline_bytes": 1_000_000, "peak_bytes": 9_000_000}, "verdict": "valid",
    }  # fmt: skip
    return Record.model_validate(content | changes)


def test_a_record_survives_its_file_and_a_single_object_is_a_record_too(tmp_path):
    write_records(tmp_path / "two.json", [record(), record("other")])
    assert read_records(tmp_path / "two.json") == [record(), record("other")]
    (tmp_path / "one.json").write_text(json.dumps(record().model_dump(mode="json")))
    assert read_records(tmp_path / "one.json") == [record()]


def test_a_table_tells_kept_images_from_new_ones():
    assert label(record("nano")) == "nano N=64"
    assert label(record("nano", settings={"warm_up": 3, "timed": 20, "vision_tokens": 64, "mode": "warm-image"})) == (
        "nano N=64 kept"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 3}, "schema_version is 3"),
        ({"batery": 1}, "batery"),
        ({"verdict": "fine"}, "verdict"),
        ({"samples": {"ttft": [float("nan")]}}, "NaN is no JSON number"),
        ({"answers": [{"prompt": "?", "token_ids_sha256": "x", "runs": 1, "equal_runs": 1}]}, "token_ids_sha256"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_by_name(tmp_path, change, says):
    (tmp_path / "bad.json").write_text(json.dumps(record().model_dump(mode="json") | change))
    with pytest.raises(InputError, match=says):
        read_records(tmp_path / "bad.json")


def test_the_digest_is_that_of_the_numbers_in_decimal():
    # printf 5,17 | sha256sum
    assert token_digest([5, 17]) == "0dd9096a23652428bc76563dd7875d58eb06bcbe58580532611d265eb99bf009"


class Scripted:
    """A subject whose times are given and whose answers may turn wrong from some call on."""

    def __init__(self, wrong_from: int = 10**9):
        self.calls, self.wrong_from = [], wrong_from

    def ask(self, images, kept, question, first_only):
        self.calls.append((tuple(images), kept, question.prompt, first_only))
        tokens = [1, 2, 3] if len(self.calls) <= self.wrong_from else [1, 9, 3]
        times = {"preprocess": 1.0, "vision_encoder": 2.0, "vision_injector": 3.0, "prefill": 4.0, "ttft": 10.0}
        return Asked(times, [5.0, 6.0], tokens[:1] if first_only else tokens, "text", "kv", 7, 64)


def job(mode: str, questions: int = 1, images: int = 1) -> Job:
    items = [Item([f"a/{i}.png"] * images, [Question(f"{i}.{q}?") for q in range(questions)]) for i in range(3)]
    return Job("bundle", items, mode, warm_up=2, timed=4, new_tokens=3)


def run(subject, what: Job):
    return Measurement(subject, what, Probe(), lambda done, of: None).run()


@pytest.mark.parametrize(
    ("mode", "questions", "counts"),
    [
        # a single question is asked again with the kept image, up to its first text
        ("cold-image", 1, {"ttft": 4, "warm_ttft": 4, "vision_encoder": 4, "prefill": 4, "inter_token": 8}),
        ("cold-image", 3, {"ttft": 4, "warm_ttft": 8, "vision_encoder": 4, "prefill": 12, "inter_token": 24}),
        ("warm-image", 1, {"warm_ttft": 4, "prefill": 4, "inter_token": 8}),
        ("text-only", 1, {"ttft": 4, "prefill": 4, "inter_token": 8}),
    ],
)
def test_what_is_counted(mode, questions, counts):
    outcome = run(Scripted(), job(mode, questions, images=0 if mode == "text-only" else 1))
    found = {name: len(values) for name, values in outcome["samples"].items()}
    assert {name: found.get(name) for name in counts} == counts
    assert set(found) - set(counts) <= {"preprocess", "vision_injector"}
    assert ("vision_encoder" in found) == (mode == "cold-image")
    assert outcome["harness_overhead"] >= 0


def test_a_wrong_answer_cannot_pass():
    right = run(Scripted(), job("cold-image"))
    assert judge(right, 3, 4, None)[0] != "invalid"
    wrong = run(Scripted(wrong_from=12), job("cold-image"))
    verdict, reasons = judge(wrong, 3, 4, None)
    assert verdict == "invalid"
    assert "answered differently" in reasons[0]
    cut = run(Scripted(), job("cold-image"))["answers"][0]  # an answer cut short is compared with the beginning
    assert cut["runs"] == cut["equal_runs"] == 7


def outcome(**changes):
    samples = {"ttft": [10.0, 30.0] * 10}  # two questions of different length
    return {"samples": samples, "readings": [], "answers": [], "self_test_passed": True, **changes}


@pytest.mark.parametrize(
    ("changes", "gate", "verdict", "says"),
    [
        ({}, None, "valid", None),
        ({"self_test_passed": False}, None, "invalid", "self-test"),
        ({"samples": {"ttft": [10.0, 30.0] * 8 + [14.0, 45.0] * 2}}, None, "semi-valid", "ttft varies"),
        ({"readings": [{"other_load": 0.4}] * 3}, None, "semi-valid", "other processes kept 0.40"),
        ({"readings": [{"cpu_clock_mhz": c} for c in (2000, 2000, 1500)]}, None, "semi-valid", "2000 to 1500 MHz"),
        ({"throttled": True}, None, "semi-valid", "throttled"),
        ({}, 60.0, "semi-valid", "no sensor"),
        ({"readings": [{"cpu_temperature_c": 71.0}]}, 60.0, "semi-valid", "71 C"),
        ({"harness_overhead": 0.03}, None, "semi-valid", "3.0%"),
        ({"notes": ["an interpreter ran it"]}, None, "semi-valid", "interpreter"),
    ],
)
def test_verdicts(changes, gate, verdict, says):
    found, reasons = judge(outcome(**changes), 2, 20, gate)
    assert found == verdict
    assert (says is None and not reasons) or says in reasons[0]


def test_spread_is_within_a_question_not_between_questions():
    assert spread([10.0, 30.0] * 10, 2) == 0
    assert spread([10.0, 30.0] * 10, 1) > 0.4


def test_readings_come_from_proc_and_sys(tmp_path):
    files = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "48312",
        "sys/class/thermal/thermal_zone1/type": "battery",
        "sys/class/thermal/thermal_zone1/temp": "90000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000",
        "sys/class/power_supply/BAT0/type": "Battery",
        "sys/class/power_supply/BAT0/capacity": "81",
        "sys/class/power_supply/BAT0/temp": "312",
        "sys/class/power_supply/BAT0/status": "Discharging",
        "sys/class/powercap/intel-rapl:0/energy_uj": "900",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "5",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0x50005",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    probe = Probe(tmp_path)
    reading = probe.reading()
    assert {name: value for name, value in reading.items() if name != "at_s"} == {
        "cpu_temperature_c": 48.312, "cpu_clock_mhz": 1800, "cpu_clock_max_mhz": 2400, "battery_percent": 81,
        "battery_temperature_c": 31.2, "charging": False, "core_clocks_mhz": [1800],
    }  # fmt: skip
    assert probe.throttle_events() == 2
    before = probe.energy_uj()
    assert before == {"intel-rapl:0": (900.0, 1000.0)}  # the packages, not their parts
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("100")
    assert energy_used(before, probe) == pytest.approx(200e-6)  # it started again at 1000
    assert Probe(tmp_path / "nothing").reading().keys() == {"at_s"}


def test_mann_whitney_agrees_with_scipy():
    # scipy.stats.mannwhitneyu(a, b, method="asymptotic"), 1.17
    a, b = [1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert mann_whitney(a, b) == pytest.approx(0.09099666264147159, rel=1e-9)
    assert mann_whitney(b, a) == pytest.approx(0.09099666264147159, rel=1e-9)
    assert mann_whitney([1.0] * 8, [1.0] * 8) == 1
    low, high = ratio_interval(np.linspace(9, 11, 40), 2 * np.linspace(9, 11, 40))
    assert low < 2 < high < 2.3


def test_compare_flags_only_what_is_slower_and_significant():
    def flagged(before, after, threshold=0.05):
        return {d.metric for d in compare([before], [after], threshold)[0] if d.regression}

    assert flagged(record(), record()) == set()
    assert flagged(record(), record(scale=1.2)) == {*TIMES, "vision_encoder"}
    assert flagged(record(), record(scale=1.2), threshold=0.3) == set()
    assert flagged(record(scale=1.2), record()) == set()
    few = record(samples={"load": [100.0, 101.0, 102.0]})
    slow = record(samples={"load": [200.0, 201.0, 202.0]})
    assert flagged(few, slow) == set()  # three loads are too few to say
    assert "peak memory, MB" in flagged(record(), record(memory={"baseline_bytes": 0, "peak_bytes": 20_000_000}))
    with pytest.raises(InputError, match="nothing to compare"):
        compare([record()], [record("another")], 0.05)


def test_bench_compare_ends_with_3_for_a_regression(tmp_path):
    write_records(tmp_path / "a.json", [record()])
    write_records(tmp_path / "b.json", [record(scale=1.5)])
    same = CliRunner().invoke(himix, ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    assert same.exit_code == 0
    worse = CliRunner().invoke(himix, ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert isinstance(worse.exception, GateRefused)
    assert "ttft x 1.50" in str(worse.exception)


def test_the_page_is_one_file_and_no_text_of_a_record_is_markup():
    evil = "<img src=x onerror=alert(1)>|`"
    hostile = record(evil, command=evil, reasons=[evil], device={"name": evil}, verdict="semi-valid")
    page = html_page([record(), record("nano-b"), hostile])
    assert "<img" not in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", page.replace("src=x", ""))
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 4
    assert "prefers-color-scheme:dark" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    row = next(line for line in markdown([hostile]).splitlines() if "onerror" in line and line.startswith("| "))
    assert "\\<img" in row
    assert "\\|\\`" in row


def test_report_from_an_app_s_record(tmp_path):
    phone = {"schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "am start", "harness": "app",
             "device": {"name": "Phone", "kind": "phone"}, "settings": {"warm_up": 0, "timed": 1}, "verdict": "valid",
             "bundle": {"name": "b", "target": "onnx", "precision": "int8"}, "samples": {"ttft": [12.5]}}  # fmt: skip
    (tmp_path / "phone.json").write_text(json.dumps(phone))
    result = CliRunner().invoke(himix, ["report", str(tmp_path / "phone.json"), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert "Phone" in (tmp_path / "r.html").read_text()
    assert "12.5" in (tmp_path / "r.md").read_text()
    assert read_records(tmp_path / "r.json") == read_records(tmp_path / "phone.json")


@pytest.mark.parametrize(
    ("precision", "group", "activations", "weight"),
    [("int4", 32, "int8", 18 / 32), ("int8", 0, "int8", 1), ("none", 0, "float", 4), ("none", 0, "float16", 2)],
)
def test_a_token_s_bytes_are_those_of_its_matrices(tiny_bundle, precision, group, activations, weight):
    manifest = read_manifest(tiny_bundle)
    bits = dict.fromkeys(manifest.quantization.bits, {"int4": 4, "int8": 8, "none": 32}[precision])
    changes = {"precision": precision, "bits": bits, "group_size": group, "activations": activations}
    stored = manifest.model_copy(update={"quantization": manifest.quantization.model_copy(update=changes)})
    config = Bundle(tiny_bundle, manifest).config
    # tests.conftest.TINY: 2 layers, hidden 64, MLP 96, 4/2 heads of 16, vocabulary 400, tied
    matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96) + 400 * 64
    assert weight_bytes_per_token(stored, config) == matrices * weight
    assert kv_bytes_per_token(config, element=2) == 2 * 2 * 2 * 16 * 2


def quick(**changes) -> Plan:
    return dataclasses.replace(Plan(warm_up=1, timed=5, new_tokens=4, loads=1), **changes)


def measure(folder, plan: Plan) -> Record:
    return measure_here(folder, plan, PROBE, Device(name="here"), "test", lambda *at: None)


def test_measuring_a_bundle_in_fresh_processes(tiny_bundle):
    found = measure(tiny_bundle, quick(loads=2))
    samples = found.samples
    assert (len(samples.load), len(samples.ttft), len(samples.warm_ttft), len(samples.inter_token)) == (2, 5, 5, 15)
    assert all(len(getattr(samples, stage)) == 5 for stage in ("preprocess", "vision_encoder", "vision_injector"))
    assert found.self_test_passed
    assert found.verdict != "invalid"
    assert len(found.answers) == 5
    # the reference, a warm-up and a timed iteration for the first, each asked cold and warm
    assert (found.answers[0].runs, found.answers[0].equal_runs) == (5, 5)
    assert found.memory.peak_bytes > found.memory.baseline_bytes > 0
    assert found.settings.vision_tokens == 16
    assert found.versions["onnxruntime"]
    session = open_bundle(tiny_bundle)
    session.text.stop_ids = frozenset()
    asked = found.answers[0]
    image = next(s.image for s in PROBE.samples if s.image.name == asked.images[0])
    tokens = [piece.token_id for piece in session.generate(asked.prompt, image, max_new_tokens=4, temperature=0)]
    assert asked.token_ids_sha256 == token_digest(tokens)


@pytest.mark.parametrize(
    ("plan", "vision", "present", "absent"),
    [
        (quick(mode="warm-image", depth=6), 16, {"warm_ttft", "prefill"}, {"ttft", "vision_encoder"}),
        (quick(mode="text-only"), 0, {"ttft", "prefill"}, {"warm_ttft", "vision_encoder"}),
        (quick(images=2, questions_per_image=2, prompt_tokens=24), 32, {"ttft", "warm_ttft", "preprocess"}, set()),
        (quick().at(5), 5, {"warm_ttft"}, {"ttft"}),
        (quick().at(24), 24, {"warm_ttft"}, {"ttft"}),
    ],
)
def test_settings_do_what_they_say(tiny_bundle, plan, vision, present, absent):
    found = measure(tiny_bundle, plan)
    assert found.settings.vision_tokens == vision
    filled = {name for name in Samples.model_fields if getattr(found.samples, name)}
    assert present <= filled
    assert not absent & filled
    assert all(answer.runs == answer.equal_runs for answer in found.answers)


def test_prompts_of_a_fixed_length(tiny_bundle, text):
    job = quick(prompt_tokens=30).job(tiny_bundle, PROBE)
    ids = [question.ids for item in job.items for question in item.questions]
    assert {len(prompt) for prompt in ids} == {30}
    assert len({tuple(prompt) for prompt in ids}) > 1  # varied
    plain = open_bundle(tiny_bundle).text.encode_chat
    from himix_edge.text import Message

    template = plain([Message("user", "what")])
    assert all(prompt[0] == template[0] and prompt[-3:] == template[-3:] for prompt in ids)
    with pytest.raises(InputError, match="the chat template alone takes"):
        quick(prompt_tokens=2).job(tiny_bundle, PROBE)


def test_plans_that_cannot_be(tiny_bundle):
    with pytest.raises(InputError, match="its context capacity is 96"):
        quick(new_tokens=90).job(tiny_bundle, PROBE)
    with pytest.raises(InputError, match="--image warm"):
        quick(depth=5).checked()
    with pytest.raises(InputError, match="--images"):
        quick(mode="text-only", images=2).checked()


def test_a_bundle_that_answers_wrongly_ends_with_3_and_is_reported(tiny_bundle, tmp_path):
    folder = tmp_path / "wrong"
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["selftest"].update(token_ids=[7, 7, 7], decisive=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    command = ["bench", str(folder), "--iterations", "2", "--warm-up", "0", "--new-tokens", "2"]
    result = CliRunner().invoke(himix, [*command, "--report", str(tmp_path / "r.html"), "--json"])
    assert isinstance(result.exception, GateRefused)
    assert "self-test" in str(result.exception)
    assert read_records(tmp_path / "r.json")[0].verdict == "invalid"
    assert "invalid" in (tmp_path / "r.html").read_text()


def test_bad_input_is_one_line(tiny_bundle, tmp_path):
    def error(*arguments):
        return str(CliRunner().invoke(himix, ["bench", *arguments]).exception)

    assert "no such bundle folder" in error(str(tmp_path / "none"))
    assert "ends in .json" in error(str(tiny_bundle), "--out", "x.txt")
    assert "give local, ssh://" in error(str(tiny_bundle), "--device", "usb")
    assert "give numbers of tokens" in error(str(tiny_bundle), "--sweep-vision-tokens", "a,b")
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    with (damaged / "decoder.onnx").open("r+b") as file:
        file.write(b"x")
    assert "does not match its SHA-256" in error(str(damaged))


def test_image_kv_of_exactly_so_many_tokens():
    rng = np.random.default_rng(0)
    key, value = rng.standard_normal((2, 2, 2, 4, 8)).astype(np.float32)
    found = exactly(ImageKV(key, value, "m"), 6)
    assert found.tokens == 6
    np.testing.assert_array_equal(found.key, np.concatenate([key, key[:, :, :2]], axis=2))
    assert exactly(ImageKV(key, value, "m", 4), 3).next_position == 3
    with pytest.raises(InputError, match="cannot be repeated"):
        exactly(ImageKV(key, value, "m", 4), 5)
