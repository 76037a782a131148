"""What an export is doing at the moment, for whoever waits for it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Step `number` of `count`, and where it takes long what it is at."""

    number: int
    count: int
    name: str
    detail: str = ""

    def __str__(self) -> str:
        name = f"{self.name}: {self.detail}" if self.detail else self.name
        return f"step {self.number} of {self.count}: {name}"


Show = Callable[[Step], None]


class Progress:
    """Counts steps and shows each when it begins.

    Args:
        show: called with every step, and again for each detail of it.
        count: steps in all.
    """

    def __init__(self, show: Show, count: int):
        self.show, self.count = show, count
        self.number, self.name, self.prefix = 0, "", ""

    def step(self, name: str) -> None:
        """Begin the next step."""
        self.number, self.name = self.number + 1, self.prefix + name
        self.show(Step(self.number, self.count, self.name))

    def detail(self, text: str) -> None:
        """Say what the step under way is at."""
        self.show(Step(self.number, self.count, self.name, text))

    def skip_to(self, number: int) -> None:
        """Leave out steps, so that the next one is the one after `number`."""
        self.number = number
