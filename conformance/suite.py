"""The whole suite: which file holds what, and in which order they are made."""

import json
import shutil
from pathlib import Path
from typing import Any

import himix_edge
from conformance import (
    answers,
    characters,
    encodings,
    hostile,
    images,
    picture_texts,
    sampling,
    tiles,
    tokenizer_kinds,
)
from himix_edge.errors import InputError
from himix_edge.runtimes import open_bundle

FORMAT = 1
INDEX = "suite.json"
QUESTIONS = 100


def write(out: Path, bundles: list[Path], questions: int = QUESTIONS, smollm2: bool = False) -> None:
    """Write the suite.

    Args:
        out: its folder; an earlier suite there is replaced.
        bundles: bundles of the shipped nano, of different names.
        questions: how many questions each bundle is asked.
        smollm2: whether SmolLM2's tokenizer, which is in a package of 93 MB, is one of the tokenizers.

    Raises:
        InputError: `out` holds something else, or a bundle cannot be opened.
    """
    _clear(out)
    names = list(tokenizer_kinds.write(out / "tokenizers", smollm2))
    for name in names:
        _dump(out / "tokenizers" / name / "cases.json", encodings.cases(out / "tokenizers" / name))
    _dump(out / "characters.json", characters.facts())
    _dump(out / "sampling.json", {"probabilities": sampling.probabilities(), "stops": sampling.stops()})
    pictures = images.Images(out)
    images.add_pictures(pictures)
    _dump(out / "tiles.json", list(tiles.cases(pictures)))
    _dump(out / "arranged.json", list(tiles.arranged(pictures)))
    model = json.loads((bundles[0] / "manifest.json").read_text())["model"]
    templates = list(picture_texts.write(out / "pictures", model))
    asked = answers.questions(pictures, questions)
    (out / "answers").mkdir()
    sessions = {bundle: open_bundle(bundle) for bundle in bundles}
    for bundle, session in sessions.items():
        _dump(out / "answers" / f"{bundle.name}.json", answers.facts(session, bundle, asked, pictures))
    _dump(out / "images.json", pictures.facts)
    _dump(out / "hostile.json", hostile.cases(sessions[bundles[0]], bundles[0], out))
    index = {
        "format": FORMAT, "himix_edge": himix_edge.__version__, "tokenizers": names, "pictures": templates,
        "bundles": [bundle.name for bundle in bundles],
    }  # fmt: skip
    _dump(out / INDEX, index)


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / INDEX).exists():
        raise InputError(f"{out}: holds something that is no conformance suite; name a new folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _dump(out / INDEX, {})  # so that one that was broken off can be replaced


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
