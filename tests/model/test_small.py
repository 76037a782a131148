"""The shipped HiMix-Small: its size, what it says about pictures that it has not seen, and that it still writes as
SmolLM2 does."""

from pathlib import Path

import pytest

from himix_edge import load_checkpoint
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.source import open_source
from himix_edge.data import load_dataset
from himix_edge.evaluation.perplexity import perplexity
from himix_edge.presets import SHIPPED
from himix_edge.runtimes import open_checkpoint
from tests.asking import exact_match

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text()


def test_what_ships_is_small():
    assert sum(path.stat().st_size for path in (SHIPPED / "small").iterdir()) <= 32e6


@pytest.mark.parametrize(("split", "least"), [
    ("test", 0.82), pytest.param("test-style", 0.68, marks=pytest.mark.slow)
])  # fmt: skip
def test_questions_about_pictures_it_has_not_seen(split, least):
    scenes = load_dataset("emoji-scenes", split).samples[:12]
    right, asked = exact_match(load_checkpoint("small"), open_source("small").load_text(), scenes)
    assert asked > 75
    assert right / asked >= least


@pytest.mark.slow
def test_it_still_writes_as_its_base_does():
    """Slow: adds that training left the base's own text alone."""
    now, before = (perplexity(open_checkpoint(model), TEXT, 256)[0] for model in ("small", fetch("smollm2-135m")))
    assert now <= 1.05 * before


def test_it_answers_in_words(tmp_path):
    scene = load_dataset("emoji-scenes", "test").samples[0]
    scene.image.render().save(tmp_path / "scene.png")
    session = open_checkpoint("small")
    turn = scene.conversations[0][0]
    assert session.answer(turn.question, tmp_path / "scene.png") == turn.answer
