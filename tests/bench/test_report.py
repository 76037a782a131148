"""Reports: one TTFT everywhere, words explained, verdicts in sight, many devices on one page."""

import json
import re

import pytest
from click.testing import CliRunner

from himix_edge.bench import terms
from himix_edge.bench.comparable import across_devices
from himix_edge.bench.compare import compare
from himix_edge.bench.facts import bundle_facts, gate_answers
from himix_edge.bench.page import Heading, html_page
from himix_edge.bench.record import Record, read_records, write_records
from himix_edge.bench.report import markdown
from himix_edge.bench.summary import RIGHT, TIMES
from himix_edge.bench.ttft import stages_of_median, ttft, ttft_percentiles
from himix_edge.bundle import read_manifest
from himix_edge.cli import himix
from himix_edge.errors import InputError
from himix_edge.units import size

DIGEST = "0" * 64


def record(
    device: str | dict = "here", target: str = "onnx", ttft: tuple[float, ...] = (50.0, 52.4, 57.4, 90.0), **changes
):
    """A record of nano, asked one question; `changes` go one level deep."""
    content = {
        "schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "c", "harness": "h",
        "device": {"name": device} if isinstance(device, str) else device,
        "bundle": {"name": f"nano-{target}-int8", "target": target, "precision": "int8"},
        "settings": {"warm_up": 1, "timed": len(ttft), "new_tokens": 8, "vision_tokens": 64},
        "samples": {"ttft": list(ttft), "vision_encoder": [20.0, 21.0, 22.0, 30.0], "prefill": [10.0] * 4,
                    "inter_token": [10.0]},
        "answers": [{"prompt": "What?", "images": ["a.png"], "token_ids_sha256": DIGEST, "runs": 1, "equal_runs": 1}],
        "memory": {"baseline_bytes": 10**8, "peak_bytes": 1_340_000_000}, "verdict": "valid",
    }  # fmt: skip
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    return Record.model_validate(content)


def test_ttft_is_one_figure_in_page_markdown_stages_and_comparison():
    one = record()
    assert ttft(one) == pytest.approx(54.9)  # the mean of the two in the middle; the lower alone is 52.4
    total, parts = stages_of_median(one)
    assert total == ttft(one) == sum(parts.values())
    assert parts["vision_encoder"] == 21.5  # of those two iterations
    page, text = html_page([one]), markdown([one])
    assert page.count("54.9") == 2  # the table and the bar
    assert "52.4" not in page + text
    assert "| 54.9 |" in text
    assert {d.before for d in compare([one], [one], 0.05)[0] if d.metric == "ttft"} == {ttft(one)}


def test_ttft_percentiles():
    assert ttft_percentiles(record(ttft=tuple(float(n) for n in range(1, 102)))) == (51, 91, 100)
    page, text = html_page([record()]), markdown([record()])
    for name, cell in (("TTFT p90", "80.2"), ("TTFT p99", "89")):  # 57.4 + 0.7 * 32.6, 57.4 + 0.97 * 32.6
        assert f'<td data-of="{name}">{cell}</td>' in page
        assert f"| {cell} |" in text


def test_every_column_is_explained_and_so_are_settings():
    page = html_page([record(settings={"ignore_stop": True, "threads": 4})])
    explained = set(re.findall(r"<dt>(.*?)</dt>", page))
    for word in ("TTFT", "warm TTFT", "prefill", "token", "PSS", "valid", "semi-valid", "invalid", *RIGHT):
        assert word in explained
    for column in TIMES:
        assert {column, column.split(" p9")[0], column.replace("tokens/s", "token")} & explained, column
    assert "8 tokens, stop tokens ignored" in page
    assert "4 timed, 1 before them not counted" in page
    assert terms.settings(record())["image"] == "encoded for every first question"


def test_what_settings_have_in_common_is_said_once():
    page = html_page([record(), record(target="openvino", settings={"new_tokens": 9})])
    assert page.count("4 timed, 1 before") == 1
    assert "8 tokens at most" in page
    assert "9 tokens at most" in page


def test_a_verdict_stands_beside_its_bundle_s_name_and_needs_no_scrolling():
    page = html_page([record(verdict="semi-valid", reasons=["busy"])])
    summary = page[page.index("<h2>Summary") :]
    cells = re.findall('<td class="([^"]*)"', summary[: summary.index("</section>")])
    assert cells == ["name", "verdict semi-valid"]
    assert 'class="scroll"' not in summary[: summary.index("</section>")]
    assert "1 semi-valid" in page[: page.index("Summary</h2>")]


def test_the_gate_s_answers_are_in_a_record_by_default(tiny_bundle):
    manifest = read_manifest(tiny_bundle)
    shares = {
        r.metric: r.value for r in manifest.parity if r.stage == "runtime" and r.metric.startswith("equal of all")
    }
    ((metric, share),) = shares.items()
    facts = bundle_facts(tiny_bundle)
    assert facts.gate_asked == int(metric.split()[-1]) > 0
    assert facts.gate_equal == round(facts.gate_asked * share)
    assert gate_answers(manifest.model_copy(update={"parity": []})) is None
    shown = record(bundle={"gate_asked": 43, "gate_equal": 42})
    assert '<td data-of="as PyTorch">42 of 43</td>' in html_page([shown])
    assert "| 42 of 43 |" in markdown([shown])
    assert "as PyTorch</th>" not in html_page([record()])  # an app's record may not say
    with pytest.raises(ValueError, match="gate_equal 3 of gate_asked 2"):
        record(bundle={"gate_asked": 2, "gate_equal": 3})


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 kB"), (812_000, "812 kB"), (999_700, "1 MB"), (52_340_000, "52.3 MB"), (999_400_000, "999 MB"),
     (999_600_000, "1 GB"), (1_240_000_000, "1.24 GB"), (25_300_000_000, "25.3 GB"), (128e9, "128 GB")],
)  # fmt: skip
def test_bytes_have_one_way_to_be_written(count, text):
    assert size(count) == text


def test_memory_is_in_gigabytes_where_it_is_that_much():
    page = html_page([record({"name": "here", "memory_bytes": 8_200_000_000})])
    assert '<td data-of="memory">1.24 GB</td>' in page
    assert "8.2 GB" in page
    assert "1.24 GB" in markdown([record()])


def test_title_and_author(tmp_path):
    write_records(tmp_path / "a.json", [record()])
    out, evil = tmp_path / "r.html", "<b>Ours</b> & [theirs](x)"
    arguments = ["report", str(tmp_path / "a.json"), "--out", str(out), "--title", evil, "--author", "<i>Lab</i>"]
    for _ in range(2):  # the second time over its own page and Markdown
        result = CliRunner().invoke(himix, arguments)
        assert result.exit_code == 0, repr(result.exception)
    page, text = out.read_text(), out.with_suffix(".md").read_text()
    assert "<h1>&lt;b&gt;Ours&lt;/b&gt; &amp; [theirs](x)</h1>" in page
    assert "&lt;i&gt;Lab&lt;/i&gt;" in page
    assert "<b>Ours" not in page + text.replace("\\<", "")
    assert "# \\<b\\>Ours" in text
    assert "\\<i\\>Lab" in text
    nameless = CliRunner().invoke(himix, [*arguments, "--title", " "])
    assert isinstance(nameless.exception, InputError)


def devices() -> list[Record]:
    """Two targets on three devices."""
    factors = {"Pi 5": 3.0, "Pixel 8": 1.0, "here": 0.5}
    return [record(device, target, tuple(x * factor for x in (10.0, 11.0, 12.0, 13.0)))
            for device, factor in factors.items() for target in ("onnx", "openvino")]  # fmt: skip


def test_several_devices_are_set_side_by_side():
    (comparison,), refused = across_devices(devices())
    assert refused == []
    assert comparison.model == "nano"
    assert comparison.devices == ("Pi 5", "Pixel 8", "here")
    assert comparison.targets == ("onnx int8", "openvino int8")
    page, text = html_page(devices()), markdown(devices())
    assert "nano on 3 devices" in page
    assert '<td data-of="openvino int8" class="best">34.5</td>' in page  # equal to ONNX's, so both are
    assert "| Pixel 8 | 11.5 | 11.5 |" in text
    assert "nano-onnx-int8 · Pixel 8 N=64" in page  # whose bar it is
    assert across_devices(devices()[:2]) == ([], [])  # one device is no comparison


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"new_tokens": 64}}, "new_tokens is 64, elsewhere 8"),
        ({"settings": {"mode": "warm-image"}}, "mode is warm-image, elsewhere cold-image"),
        ({"settings": {"prompt_tokens": 5}}, "prompt_tokens is 5, elsewhere not fixed"),
        ({"verdict": "invalid"}, "its answers are wrong"),
        ({"answers": []}, "does not say what was asked"),
        ({"answers": [{"prompt": "Why?", "images": ["a.png"], "token_ids_sha256": DIGEST, "runs": 1, "equal_runs": 1}]},
         "other questions, e.g. 'Why?' about a.png"),
        ({"bundle": {"name": "small-onnx-int8"}}, "no other device ran small"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_by_name(changes, reason):
    odd = record("Pi 4", **changes)
    (comparison,), (refused,) = across_devices([odd, *devices()])
    assert refused.record == odd
    assert refused.device == "Pi 4"
    assert reason in refused.reason
    assert "Pi 4" not in comparison.devices
    page, text = html_page([odd, *devices()]), markdown([odd, *devices()])
    assert "Not compared between devices" in page
    assert "on Pi 4" in text[text.index("Not compared:") :]


def test_of_two_measurements_of_one_cell_the_newer_is_shown():
    older, newer = record("Pi 5", ttft=(1.0,) * 4), record("Pi 5", ttft=(2.0,) * 4, started="2026-02-01T00:00:00Z")
    for order in ([older, newer], [newer, older]):
        (comparison,), (refused,) = across_devices([*order, *devices()[2:]])
        assert comparison.cells["Pi 5", "onnx int8"] == newer
        assert refused.record == older
        assert "measured again 2026-02-01" in refused.reason


def test_two_devices_of_one_name_are_two():
    twins = [record({"name": "Pixel 8", "os": f"Android {n}"}) for n in (14, 15)]
    (comparison,), _ = across_devices(twins)
    assert comparison.devices == ("Pixel 8", "Pixel 8 (2)")
    bandwidths = [record({"name": "here", "read_bandwidth_gb_s": n}, t) for n, t in ((20, "onnx"), (21, "x"))]
    assert across_devices(bandwidths) == ([], [])  # a measured figure makes no other device


def test_files_of_several_devices_make_one_page(tmp_path):
    for name, part in (("a", devices()[:2]), ("b", devices()[2:4])):
        write_records(tmp_path / f"{name}.json", part)
    both = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    result = CliRunner().invoke(himix, ["report", *both, "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0, repr(result.exception)
    assert "nano on 2 devices" in (tmp_path / "r.html").read_text()
    assert read_records(tmp_path / "r.json") == devices()[:4]  # names as they were


def test_no_device_s_name_is_markup():
    evil = "<img src=x onerror=alert(1)>|`"
    hostile = [record(f"{evil}{n}", target=evil) for n in range(2)] + [record(evil, verdict="invalid", reasons=[evil])]
    page = html_page(hostile, Heading(evil, evil))
    assert "<img" not in page
    assert not re.search(r"<script|(?:src|href)=|url\(|@import", page.replace("src=x", ""))
    outside = markdown(hostile, Heading(evil, evil))
    assert not re.search(r"(?<!\\)<img", outside[: outside.index("```")])


def test_a_record_with_the_gate_s_answers_survives_its_file(tmp_path):
    write_records(tmp_path / "r.json", [record(bundle={"gate_asked": 3, "gate_equal": 3})])
    assert json.loads((tmp_path / "r.json").read_text())[0]["bundle"]["gate_asked"] == 3
    assert read_records(tmp_path / "r.json")[0].bundle.gate_equal == 3
