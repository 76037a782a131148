"""What one measuring process is told to do. Standard library only: boards read it too."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """One prompt. `ids` are its tokens where they were fixed beforehand; else it is tokenised as it is asked."""

    prompt: str
    ids: list[int] | None = None


@dataclass(frozen=True)
class Item:
    """Image files that are joined in front of each of the questions; none: text only."""

    images: list[str]
    questions: list[Question]


@dataclass(frozen=True)
class Job:
    """One run of one bundle. Item i % len(items) is asked in iteration i.

    `mode` as in the record's settings. `vision_tokens`: None takes the images as they come; a number cuts or repeats
    their keys and values to that many slots, which needs mode "warm-image". `depth_ids` are put into the cache behind
    the image before each prompt. `max_temperature`: wait before an iteration until the CPU is below it (Celsius).
    """

    bundle: str
    items: list[Item]
    mode: str
    warm_up: int
    timed: int
    new_tokens: int
    threads: int | None = None
    provider: str | None = None  # what was asked for, see `open_bundle`
    ignore_stop: bool = False
    vision_tokens: int | None = None
    depth_ids: list[int] = dataclasses.field(default_factory=list)
    max_temperature: float | None = None
    sustained_s: float | None = None  # questions without a pause, behind the timed iterations
    cores: str | None = None  # "big" or "little": the kind that the process is bound to

    def to_dict(self) -> dict[str, object]:
        """As JSON's types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> "Job":
        """The inverse of `to_dict`."""
        items = [
            Item(item["images"], [Question(**question) for question in item["questions"]]) for item in raw["items"]
        ]
        return Job(**{**raw, "items": items})
