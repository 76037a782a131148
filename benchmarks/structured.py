"""Answers bound to three schemas, drawn by the thousand in any runtime, and judged by pydantic.

    python -m benchmarks.structured BUNDLE [BUNDLE ...] [--answers 1000]

The schemas are of the pydantic classes below, and pydantic reads the answers into those classes, strictly. Answers are
drawn at a high temperature, each with a seed of its own, about the shipped pictures in turn, so they are all kinds of
documents and not what a model likes best. One bundle after the other; the exit code is 1 if an answer is not valid.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.progress import track

from himix_edge.cli.console import print_table
from himix_edge.presets import SHIPPED
from himix_edge.runtimes import Session, Structure, open_bundle

TEMPERATURE = 1.5
LONGEST = 96  # tokens; every document of the schemas is shorter
QUESTION = "What is it?"
Count = Annotated[int, Field(ge=0, le=20)]


class Strict(BaseModel):
    """No other fields, and no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Color(Strict):
    """A word, and a text of an expression."""

    color: Literal["red", "green", "blue"]
    code: Annotated[str, Field(pattern="^#[0-9a-f]{3}$")]


class Shape(Strict):
    """A word, a number within bounds, and a truth."""

    shape: Literal["circle", "square", "triangle"]
    count: Count
    sure: bool


class Scene(Strict):
    """An object in an object, a list of one or two numbers, a text of at most four characters, and a null."""

    name: Annotated[str, Field(max_length=4)]
    at: Annotated[list[Count], Field(min_length=1, max_length=2)]
    more: Color | None


KINDS: tuple[type[Strict], ...] = (Color, Shape, Scene)


@dataclass
class Found:
    """What became of one schema's answers."""

    schema: str
    valid: int = 0
    different: int = 0
    seconds: float = 0.0
    wrong: str = ""  # the first that is not valid


def judge(kind: type[Strict], text: str) -> str:
    """What pydantic has against an answer, or nothing."""
    try:
        kind.model_validate_json(text)
    except ValidationError as error:
        return f"{text!r:.200}: {error.errors()[0]['msg']}"
    return ""


def draw(session: Session, kind: type[Strict], answers: int, label: str = "") -> Found:
    """So many answers of one schema."""
    found, seen = Found(kind.__name__), set()
    structure = Structure.json_schema(kind.model_json_schema())
    images = [session.encode_image(path) for path in sorted((SHIPPED / "probe").glob("*.png"))[:8]]
    began = time.monotonic()
    for seed in track(range(answers), f"{label} {kind.__name__}", disable=not label):
        answer = session.generate(
            QUESTION, images[seed % len(images)], LONGEST, TEMPERATURE, 1.0, seed, structure=structure
        )
        text = "".join(piece.text for piece in answer)
        if wrong := judge(kind, text):
            found.wrong = found.wrong or f"seed {seed}, {answer.stats.finish_reason}: {wrong}"
        else:
            found.valid += 1
        seen.add(text)
    found.different, found.seconds = len(seen), time.monotonic() - began
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers bound to schemas, judged by pydantic.")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--answers", type=int, default=1000)
    given = parser.parse_args()
    rows, wrong = [], []
    for bundle in given.bundles:
        with open_bundle(bundle) as session:
            for kind in KINDS:
                found = draw(session, kind, given.answers, bundle.name)
                rows.append((bundle.name, found.schema, given.answers, found.valid, found.different,
                             f"{found.seconds:.0f} s"))  # fmt: skip
                wrong += [f"{bundle}: {found.schema}: {found.wrong}"] if found.wrong else []
                print(json.dumps({"bundle": str(bundle), "answers": given.answers, **vars(found)}), flush=True)
    print_table(
        f"Drawn at temperature {TEMPERATURE}, judged by pydantic",
        ("bundle", "schema", "answers", "valid", "different", "time"),
        rows,
    )
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
