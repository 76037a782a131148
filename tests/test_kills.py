"""Killed at random moments, himix loses nothing: a round each, benchmarks/kills.py does hundreds. Slow: an export's."""

import random

import pytest

from benchmarks.kills import Case


@pytest.mark.parametrize("name", [
    "train", pytest.param("convert", marks=pytest.mark.slow), pytest.param("export", marks=pytest.mark.slow)
])  # fmt: skip
def test_a_kill_loses_nothing(tmp_path, name):
    case = Case(name, tmp_path)
    case.round(random.Random(name), 2)
    assert case.problems == []


def test_the_harness_sees_what_is_lost(tmp_path):
    """Planted: a file of the user's gone, half a result, a leftover beside it and among the temporary files."""
    case = Case("convert", tmp_path)
    (case.work / "thesis.txt").unlink()
    (case.out / "model.safetensors").write_bytes(b"half")
    (case.work / ".out.tmp-1").mkdir()
    (case.temporary / "tmp1").mkdir()
    case.expect_complete("planted")
    assert len(case.problems) == 4, case.problems
