"""docs/files.md: the names and numbers in it are the code's."""

import re
from pathlib import Path

import pytest

from himix_edge import image_files
from himix_edge.bench.plan import Plan
from himix_edge.checkpoints.gguf_file import SUPPORTED
from himix_edge.checkpoints.named_templates import NAMED
from himix_edge.cli import crash_log

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_gguf_types():
    named = set(re.findall(r"\b(?:MXFP4|B?F\d+|I?Q\d_\w+|TQ\d_\d)\b", section("GGUF").replace("Q2_K to Q6_K", "")))
    assert named | {f"Q{bits}_K" for bits in range(2, 7)} == set(SUPPORTED)


def test_chat_templates():
    assert set(re.findall(r"^`[a-z].*`$", section("Chat templates"), re.MULTILINE))
    listed = section("Chat templates").split("one of these names:")[1]
    assert set(re.findall(r"`([a-z0-9-]+)`", listed)) == set(NAMED)


@pytest.mark.parametrize(("said", "found"), [
    ("256 MiB", image_files.MAX_FILE_BYTES >> 20), ("65,535 pixels", image_files.MAX_SIDE),
    ("100 million", image_files.MAX_PIXELS // 10**6), ("320 MiB", image_files.MAX_DECODED_BYTES >> 20),
])  # fmt: skip
def test_image_limits(said, found):
    assert said in section("Images")
    assert int(said.split()[0].replace(",", "")) == found


def test_environment():
    code = "".join(
        path.read_text(encoding="utf-8") for folder in ("himix_edge", "export", "runtimes")
        for path in (ROOT / folder).rglob("*.py")
    )  # fmt: skip
    used = set(re.findall(r"\b(?:HIMIX|XDG)_[A-Z_]+\b", code))
    assert set(re.findall(r"\b(?:HIMIX|XDG)_[A-Z_]+\b", section("Environment"))) == used


def test_logs_and_defaults():
    assert f"the last {crash_log.KEPT}" in section("Logs and downloads")
    plan = Plan()
    assert (plan.warm_up, plan.timed, plan.new_tokens, plan.threads) == (3, 20, 32, None)
