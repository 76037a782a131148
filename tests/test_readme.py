"""The README's commands and its Python example, run as they stand (training: a few steps of it)."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from himix_edge.export.pipeline import PROBE

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = ["steps=2", "images_per_step=2", "validation_images=2", "evaluate_every=1"]


def test_the_readmes_commands(tmp_path):
    shutil.copy(next(PROBE.parent.glob("*.png")), tmp_path / "photo.png")
    shutil.copy(Path(__file__).parents[1] / "LICENSE", tmp_path)
    environment = {**os.environ, "COLUMNS": "200"}
    ran = 0
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL):
        if language == "python":
            result = subprocess.run(
                [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stderr
            assert result.stdout.startswith("a ")
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "make":
                continue  # this test is part of what `make test` runs
            assert program == "himix"
            if arguments[0] == "train":
                arguments += [word for setting in SHORT for word in ("--set", setting)]
            if arguments[0] == "bench":
                arguments += ["--iterations", "2", "--warm-up", "1"]
            result = subprocess.run(
                [sys.executable, "-m", "himix_edge", *arguments], cwd=tmp_path, capture_output=True, text=True,
                input="What is this?\n\n", check=False, env=environment,
            )  # fmt: skip
            assert result.returncode == 0, (line, result.stderr)
            ran += 1
    assert ran >= 19


def test_its_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
