"""The commands as a user types them: exit codes, one line for each mistake, no traceback, nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from himix_edge.cli.console import print_table
from himix_edge.export.pipeline import PROBE
from himix_edge.runtimes.verifying import open_verified
from tests.commands import himix

IMAGE = str(next(PROBE.parent.glob("*.png")))


def test_a_table_in_a_pipe_is_not_folded(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_table("", ("bundle", "value"), [("x" * 200, 1)])
    assert "x" * 200 in capsys.readouterr().out


def refused(result, code, *words):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_run_answers_from_the_bundle_and_from_pytorch(nano_bundles):
    for where in (["--bundle", nano_bundles["int8"]], []):
        result = himix(
            "run",
            *where,
            "--image",
            IMAGE,
            "--prompt",
            "Describe the image.",
            "--prompt",
            "What color is it?",
            "--json",
        )
        assert result.returncode == 0, result.stderr
        first, second = json.loads(result.stdout)["answers"]
        assert first["answer"].startswith("a ")
        assert second["answer"] in first["answer"]
        assert first["stats"]["vision_encoder"] > 0
        assert second["stats"]["vision_encoder"] == 0


def test_run_streams_text_and_times(nano_bundles):
    result = himix("run", "--bundle", nano_bundles["int4"], "--image", IMAGE, "--prompt", "What shape is this?")
    assert result.returncode == 0
    assert "What shape is this?\n  " in result.stdout
    assert "TTFT" in result.stdout


def test_chat_from_a_terminal_and_kept_image(nano_bundles, tmp_path):
    keep = tmp_path / "image.kv"
    first = himix(
        "run", "--bundle", nano_bundles["int8"], "--image", IMAGE, "--save-image-kv", keep, "--prompt", "What is this?"
    )
    again = himix(
        "run",
        "--bundle",
        nano_bundles["int8"],
        "--image-kv",
        keep,
        "--chat",
        stdin="What is this?\nWhat color is it?\n\n",
    )
    assert again.returncode == 0, again.stderr
    assert first.stdout.splitlines()[1].strip() in again.stdout
    size = keep.stat().st_size
    small = himix("run", "--bundle", nano_bundles["int8"], "--image", IMAGE, "--save-image-kv", keep,
                  "--image-bits", 8, "--prompt", "What is this?")  # fmt: skip
    assert small.stdout.splitlines()[:2] == first.stdout.splitlines()[:2]
    assert keep.stat().st_size < 0.3 * size
    other = himix("run", "--bundle", nano_bundles["none"], "--image-kv", keep, "--prompt", "What is this?")
    refused(other, 2, "another model")


@pytest.mark.parametrize(("arguments", "words"), [
    (["run", "--image", "none.png", "--prompt", "hi"], ["none.png: no such image"]),
    (["run", "--image", __file__, "--prompt", "hi"], ["not an image"]),
    (["run", "--image", IMAGE], ["no --prompt"]),
    (["run", "--image", IMAGE, "--prompt", ""], ["empty"]),
    (["run", "--image", IMAGE, "--prompt", "x" * 5000], ["does not fit"]),
    (["run", "--image", IMAGE, "--prompt", "hi", "--temperature", "-1"], ["temperature"]),
    (["run", "--model", "giant", "--prompt", "hi"], ["shipped: nano"]),
    (["run", "--bundle", "nowhere", "--prompt", "hi"], ["no such bundle"]),
    (["run", "--prompt", "hi", "--save-image-kv", "x"], ["--save-image-kv"]),
    (["export", "--target", "abacus"], ["unknown target"]),
    (["export"], ["--target"]),
    (["export", "--target", "onnx", "--out", IMAGE + "/x"], ["cannot write here"]),
    (["export", "--target", "onnx", "--probe", "none.json", "--out", "x"], ["none.json"]),
    (["train", "--recipe", "giant"], ["no recipe 'giant'; give a .yaml file or one of: distill, enhanced"]),
    (["train", "--set", "steps=many"], ["steps"]),
    (["train", "--set", "speed=1"], ["learning_rate"]),
    (["train", "--data", "cifar"], ["unknown dataset"]),
    (["eval", "--task", "cifar"], ["unknown dataset"]),
    (["eval", "--limit", "0"], ["--limit"]),
    (["train", "--recipe", "missing.yaml"], ["no recipe 'missing.yaml'"]),
    (["info", "giant"], ["giant", "presets: nano"]),
    (["info", "giant", "--flops"], ["presets: nano"]),
    (["info", "nano", "--tower", "eiffel"], ["unknown tower 'eiffel'"]),
    (["convert", "giant", "--out", "x"], ["neither a checkpoint folder, a .gguf file"]),
    (["convert", "none.gguf", "--out", "x"], ["none.gguf: no such file"]),
    (["export", "--target", "onnx", "--random-weights", "--model", "giant"], ["unknown preset 'giant'"]),
    (["export", "--target", "onnx", "--tower", "siglip-so400m"], ["--random-weights"]),
    (["analyze", "--model", "nano"], ["train --vanilla"]),
    (["verify", "nowhere"], ["no such bundle"]),
    (["dance"], ["dance"]),
])  # fmt: skip
def test_mistakes_get_one_line_and_exit_code_2(tmp_path, arguments, words):
    refused(himix(*arguments, cwd=tmp_path), 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_exit_code_3(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    data = bytearray((bundle / "decoder.onnx").read_bytes())
    data[5000] ^= 1
    (bundle / "decoder.onnx").write_bytes(data)
    refused(himix("verify", bundle), 3, "decoder.onnx", "SHA-256")
    refused(himix("run", "--bundle", bundle, "--prompt", "hi"), 3, "decoder.onnx")


def test_a_wrong_self_test_answer_is_exit_code_3(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for decisive, code in ((True, 3), (False, 0)):  # of what random weights answer only the pixels count
        manifest["selftest"].update(token_ids=[1, 2, 3], decisive=decisive)
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        result = himix("verify", bundle)
        assert result.returncode == code
        assert ("self-test failed" in result.stderr) == decisive


def test_verify_and_info_of_good_bundles(nano_bundles):
    result = himix("verify", *nano_bundles.values(), "--json")
    assert result.returncode == 0, result.stderr
    assert [row["passed"] for row in json.loads(result.stdout)] == [True] * 3
    assert all(open_verified(bundle).manifest.selftest.decisive for bundle in nano_bundles.values())
    facts = json.loads(himix("info", nano_bundles["int4"], "--json").stdout)
    assert facts["weights"]["precision"] == "int4"
    assert json.loads(himix("info", "nano", "--json").stdout)["provenance"]["test"]["accuracy"] >= 0.98


def test_a_missing_backend_is_exit_code_4_with_the_pip_line(nano_bundles, tmp_path):
    for module, arguments in {
        "onnxruntime": ["run", "--bundle", nano_bundles["int8"], "--prompt", "hi"],
        "torch": ["export", "--target", "onnx"],
    }.items():
        (tmp_path / f"{module}.py").write_text("raise ImportError('hidden by a test')\n")
        result = subprocess.run(
            [sys.executable, "-m", "himix_edge", *map(str, arguments)], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        refused(result, 4, "pip install 'himix-edge[")
        (tmp_path / f"{module}.py").unlink()


def test_dry_run_predicts_and_writes_nothing(tmp_path):
    result = himix("export", "--target", "onnx", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["bundle_bytes"] > 1_000_000
    assert list(tmp_path.iterdir()) == []


def test_running_a_bundle_imports_neither_torch_nor_an_exporter(nano_bundles):
    code = (
        "import sys\nfrom himix_edge.runtimes import open_bundle\n"
        f"session = open_bundle({str(nano_bundles['int8'])!r})\n"
        f"print(session.answer('What is this?', {IMAGE!r}))\n"
        "print([m for m in ('torch', 'onnx', 'onnxscript', 'transformers', 'himix_edge.export') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, modules = result.stdout.splitlines()
    assert answer.startswith("a ")
    assert modules == "[]"


def test_a_bundle_is_named_after_the_model_and_not_after_final(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "runs" / "my run" / "final")
    arguments = ["--target", "onnx", "--quant", "none", "--dry-run", "--json"]
    result = himix("export", *arguments, "--model", tmp_path / "runs" / "my run" / "final", cwd=tmp_path)
    assert json.loads(result.stdout)["out"] == str(Path("bundles", "my-run-onnx-none"))


def test_convert_keeps_what_it_did_not_write(tiny_checkpoint, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    for force in ([], ["--force"]):
        refused(himix("convert", source, "--out", mine, *force), 2, "mine", "not a checkpoint")
        refused(himix("convert", source, "--out", source, *force), 2, "it is")
        refused(himix("convert", source, "--out", tmp_path, *force), 2, "lies in it")
    assert himix("convert", source, "--out", tmp_path / "made").returncode == 0
    refused(himix("convert", source, "--out", tmp_path / "made"), 2, "--force")
    assert himix("convert", source, "--out", tmp_path / "made", "--force").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "mine", "source"]
    assert (mine / "config.json").read_text() == "{}"


def test_a_report_keeps_what_is_beside_it(tmp_path):
    record = {"schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "c", "harness": "h",
              "device": {"name": "d"}, "bundle": {"name": "b", "target": "onnx", "precision": "int8"},
              "settings": {"warm_up": 0, "timed": 1}, "samples": {}, "verdict": "valid"}  # fmt: skip
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([record]))
    (tmp_path / "notes.md").write_text("mine")
    refused(himix("report", "a.json", "--out", "notes.html", cwd=tmp_path), 2, "notes.md", "holds something else")
    refused(himix("report", "a.json", "b.json", "--out", "a.html", cwd=tmp_path), 2, "a.json", "is read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "notes.md"]
    before = (tmp_path / "a.json").read_bytes()
    for _ in range(2):  # an earlier report is replaced
        assert himix("report", "a.json", "--out", "a.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "a.md", "b.json", "notes.md"]
