"""A minute of `make fuzz`: some inputs for each parser of outside data, the same ones every time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.material import make_material
from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS

INPUTS = 24


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "material"
    make_material(folder)
    return folder


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.deep])
def test_hostile_files_are_refused_or_taken(name: str, material: Path) -> None:
    (outcome,) = fuzz([name], material, 0, INPUTS)
    assert outcome.inputs == INPUTS
    assert not outcome.findings


def test_a_parser_that_fails_is_found(monkeypatch, tmp_path) -> None:
    """What the harness is for: an exception, a hang and a death of the process are findings, and the rest goes on."""
    monkeypatch.setenv("HIMIX_FUZZ_FAULTY", str(tmp_path / "calls"))
    code = (
        "import json, sys; from pathlib import Path; from tests.fuzz.running import fuzz;"
        "o, = fuzz(['faulty'], Path(), 0, 4); print(json.dumps([o.taken, o.findings]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, findings = json.loads(done.stdout)
    kinds = [what.split(":")[0].split(" (")[0] for _, what in findings]
    assert kinds == ["ZeroDivisionError", "hung for more than 2 s", "the process ended with -6"]
    assert taken == 1
