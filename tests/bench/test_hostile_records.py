"""Records and reports from anywhere: odd numbers, texts that are markup, files in the way."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from himix_edge.bench.compare import compare
from himix_edge.bench.page import html_page
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import MAX_RECORDS, Record, read_records
from himix_edge.bench.report import markdown, plain, write_report
from himix_edge.bench.statistics import ratio_interval
from himix_edge.cli import himix
from himix_edge.errors import InputError

PLAIN = {
    "schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "c", "harness": "h", "device": {"name": "d"},
    "bundle": {"name": "b", "target": "onnx", "precision": "int8"}, "settings": {"warm_up": 0, "timed": 1},
    "samples": {}, "verdict": "valid",
}  # fmt: skip
EVIL = "![x](http://e.invalid/x.png) <script>alert(1)</script> `` ~~~ | *a* _b_ # @x"


def record(**changes) -> Record:
    return Record.model_validate(PLAIN | changes)


def run(*arguments) -> str | None:
    """What the command refuses, or None."""
    result = CliRunner().invoke(himix, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, InputError | SystemExit), repr(result.exception)
    return str(result.exception) if result.exception else None


@pytest.mark.parametrize("value", [0, 5e-324, 1e-300, 1e9])
def test_unusual_numbers_are_drawn(value):
    times = {name: [value] * 3 for name in ("load", "preprocess", "vision_encoder", "prefill", "ttft", "inter_token")}
    facts = {"bytes": 0 if value < 1 else 1 << 53, "weight_bytes_per_token": 1 << 53, "kv_bytes_per_token": 0}
    whole = record(
        samples=times, bundle=PLAIN["bundle"] | facts, memory={"baseline_bytes": 0, "peak_bytes": 0},
        device={"name": "d", "read_bandwidth_gb_s": value}, energy_j=value, harness_overhead=value,
    )  # fmt: skip
    swept = [
        record(samples={"prefill": [value]}, settings={"warm_up": 0, "timed": 1, "vision_tokens": n}) for n in (0, 9)
    ]
    page = html_page([whole, *swept])
    assert not re.search(r"\b(nan|inf)\b", page)
    assert not re.search(r"\b(nan|inf)\b", markdown([whole, *swept]))
    found, _ = compare([whole], [whole], 0.05)
    assert {d.ratio for d in found} == {1.0}
    assert not any(d.regression for d in found)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": {"warm_up": "0", "timed": 1}}, "settings.warm_up"),
        ({"settings": {"warm_up": True, "timed": 1}}, "settings.warm_up"),
        ({"settings": {"warm_up": 0, "timed": 2**40}}, "settings.timed"),
        ({"bundle": PLAIN["bundle"] | {"bytes": 10**400}}, "bundle.bytes"),
        ({"bundle": PLAIN["bundle"] | {"name": "x" * 2000}}, "bundle.name"),
        ({"samples": {"ttft": [-1.0]}}, "samples.ttft"),
        ({"samples": {"ttft": [1e300]}}, "samples.ttft"),
        ({"samples": {"ttft": ["1"]}}, "samples.ttft"),
        ({"samples": {"ttft": {}}}, "samples.ttft"),
        ({"samples": []}, "samples"),
        ({"answers": [{"prompt": "", "token_ids_sha256": "0" * 64, "runs": 1, "equal_runs": 2}]}, "2 equal runs of 1"),
        ({"device": {"name": "\ud800"}}, "half a character"),
        ({"reasons": None}, "reasons"),
    ],
)  # fmt: skip
def test_what_no_measurement_gives_is_refused_by_name(changes, says, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(PLAIN | changes))
    with pytest.raises(InputError, match=says) as caught:
        read_records(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_a_report_has_an_end(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([PLAIN] * (MAX_RECORDS + 1)))
    with pytest.raises(InputError, match="are the most"):
        read_records(tmp_path / "r.json")


def outside_of_code(text: str) -> list[str]:
    """Lines of Markdown that are neither fenced nor between backticks; all three of its line ends are ends."""
    lines, fence = [], ""
    for line in re.split(r"\r\n|\r|\n", text):
        if mark := re.match(r" {0,3}(`{3,}|~{3,})", line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        elif not fence:
            lines.append(line)
    return lines


@pytest.mark.parametrize("break_", ["\r", "\r\n\r\n", "\n\n", "\u2028", "\x0b", "\x85"])
def test_no_text_of_a_record_is_markdown(break_):
    text = f"{EVIL}{break_}```{break_}{EVIL}"
    hostile = record(
        command=text, device={"name": text, "os": text, "cpu": text}, bundle=PLAIN["bundle"] | {"name": text},
        verdict="semi-valid", reasons=[text, "- [ ] x", "1. x", "~~~", "# x"],
    )  # fmt: skip
    for line in outside_of_code(markdown([hostile])):
        assert not re.search(r"(?<!\\)<script", line)
        assert not re.search(r"(?<!\\)[!\]]\[|(?<!\\)\]\(", line)
        assert not re.search(r"https?://", line)
        assert not re.match(r"- (?:[-+*#~]|[0-9]+[.)])", line)
    page = html_page([hostile])
    assert "<script" not in page
    assert "<img" not in page


def test_text_without_markup_stays_readable():
    assert plain("nano-onnx-int8 N=64 (2.5 GHz), 12.5%") == "nano-onnx-int8 N=64 (2.5 GHz), 12.5%"


def test_a_report_without_a_name_is_written_beside_the_records(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(PLAIN))
    result = CliRunner().invoke(himix, ["report", str(tmp_path / "bench.json")])
    assert result.exit_code == 0, repr(result.exception)
    assert "bench-report.html" in result.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["bench-report.html", "bench-report.json", "bench-report.md", "bench.json"]
    assert json.loads((tmp_path / "bench.json").read_text()) == PLAIN
    assert run("report", tmp_path / "bench.json") is None  # once more, over its own


def test_a_report_replaces_no_records_and_nothing_else(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(PLAIN))
    (tmp_path / "notes.md").write_text("mine")
    assert "choose another --out" in run(
        "report", tmp_path / "a.json", tmp_path / "b.json", "--out", tmp_path / "a.html"
    )
    assert "notes.md" in run("report", tmp_path / "a.json", "--out", tmp_path / "notes.html")
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert json.loads((tmp_path / "a.json").read_text()) == PLAIN
    with pytest.raises(InputError, match="at most"):
        write_report(tmp_path / "c.html", [record()] * (MAX_RECORDS + 1))


@pytest.mark.parametrize("accuracy", ["x", "0.5", [], {}, None, True, 2, -1, float("nan")])
def test_an_accuracy_that_is_none(accuracy, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(PLAIN))
    (tmp_path / "a.json").write_text(json.dumps({"model": "b", "accuracy": accuracy}))
    assert "a.json" in run("report", tmp_path / "r.json", "--accuracy", tmp_path / "a.json")


def test_a_comparison_is_json_and_a_name_is_no_markup_of_the_terminal(tmp_path):
    names = {"bundle": PLAIN["bundle"] | {"name": "[/red] \x1b[31m"}, "reasons": ["[/x]"], "verdict": "semi-valid"}
    for name, value in (("a", 0.0), ("b", 5.0)):
        samples = {"samples": {"ttft": [value] * 10}}
        (tmp_path / f"{name}.json").write_text(json.dumps(PLAIN | names | samples))
    both = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    found = CliRunner().invoke(himix, ["bench", "compare", *both, "--json"])
    (difference,) = json.loads(found.stdout, parse_constant=pytest.fail)["differences"]
    assert difference["ratio"] is None
    assert difference["regression"]
    shown = CliRunner().invoke(himix, ["bench", "compare", *both])
    assert "[/red]" in shown.output
    assert "\x1b[31m" not in shown.output
    assert "give a number" in run("bench", "compare", *both, "--threshold", "nan")


def test_a_temperature_that_is_never_reached_is_refused():
    with pytest.raises(InputError, match="degrees"):
        Plan(max_temperature=float("nan")).checked()


def test_the_bootstrap_of_many_values_needs_no_copies_of_them():
    # np.random.default_rng(1).choice(v, (20000, len(v))) and np.median over rows: within 1% of these ends
    rng = np.random.default_rng(5)
    v = rng.exponential(10, 41)
    low, high = ratio_interval(v, v, draws=20_000)
    resampled = np.median(np.random.default_rng(1).choice(v, (20_000, 41)), axis=1)
    other = np.median(np.random.default_rng(2).choice(v, (20_000, 41)), axis=1)
    assert (low, high) == pytest.approx(tuple(np.percentile(other / resampled, [2.5, 97.5])), rel=0.05)
    assert ratio_interval([1.0] * 1_000_000, [2.0] * 1_000_000) == (2.0, 2.0)
