"""The results page of the training runs says what the records beside it say."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import training_results
from benchmarks.training_results import keep_records, quantized_rows, read_groups, share

KEPT = Path(training_results.__file__).with_name("training")


@pytest.mark.slow
def test_the_page_is_made_of_the_records(tmp_path, monkeypatch):
    """Slow: adds that page and plots in the repository are those of the records."""
    for record in KEPT.glob("*.json"):
        shutil.copy(record, tmp_path)
    monkeypatch.setattr("sys.argv", ["training_results", "--runs", str(tmp_path / "none"), "--out", str(tmp_path)])
    training_results.main()
    assert (tmp_path / "README.md").read_text() == (KEPT / "README.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in KEPT.glob("*.png")}


def test_a_finished_run_is_kept_and_an_unfinished_one_is_not(tmp_path):
    record = json.loads((KEPT / "nano-regular-0.json").read_text())
    config, _ = record.pop("config"), record.pop("bundles")
    for name, finished in (("nano-regular-1", True), ("nano-regular-2", False)):
        final = tmp_path / "runs" / name / "final"
        final.mkdir(parents=True)
        (final / "config.json").write_text(json.dumps(config))
        made = record if finished else {key: value for key, value in record.items() if key != "tests"}
        (final / "provenance.json").write_text(json.dumps(made))
        for bundle, right in (("pytorch", 80), ("onnx-int4", 79)):
            result = {"right": right, "asked": 100, "split": "test"}
            (final.parent / f"eval-{bundle}.json").write_text(json.dumps(result))
    keep_records(tmp_path / "runs", tmp_path)
    (group,) = read_groups(tmp_path).values()
    assert (group.name, len(group.records)) == ("nano-regular", 1)
    assert group.accuracy("test") == (record["tests"]["emoji-scenes-few test"]["right"], 8504)
    assert f"| nano-regular-1 | onnx-int4 | 100 | {share(79, 100)} | 1.0 |" in quantized_rows(tmp_path)


@pytest.mark.parametrize(("counts", "text"), [((0, 0), ""), ((80, 100), "80.0% (71.1 to 86.7)")])
def test_a_share_has_wilsons_interval(counts, text):
    assert share(*counts) == text
