"""What a vanilla model's text holds in place of pictures: the tags around each tile, and a token for each feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypedDict

from pydantic import ConfigDict, Field

from himix_edge.config import ImageLayout
from himix_edge.errors import InputError

MOST_ROWS = 16  # of tags that are looked for in a tokenizer
Texts = Annotated[str, Field(max_length=400)]


class Tags(TypedDict, total=False):
    """What a family's own code writes around tiles; the fields of an `ImageText`."""

    numbered: str
    alone: str
    start: str
    tile: str
    row_end: str
    whole: str
    whole_first: bool


class Slots(NamedTuple):
    """A picture's place in the text: `tokens` slots for each of `rows` x `columns` tagged tiles, and for the whole one.

    0 x 0: one run of `tokens`.
    """

    rows: int
    columns: int
    tokens: int


@dataclass(frozen=True)
class ImageText:
    """The texts of a message with pictures; pictures stand before its words.

    Attributes:
        slot: the token that stands for one embedding.
        before: in front of the first picture, in place of `ChatTemplate.user[0]`.
        between: of two pictures.
        after: the last picture, in front of the words.
        numbered: in front of each of several pictures; {number} counts from 0.
        alone: a picture without tags; {slots} are its tokens.
        start: in front of a picture of several tiles.
        tile: one of them; {row} and {column} count from 1.
        row_end: behind the last tile of a row.
        whole: the whole picture beside them; "" if it does not come.
        whole_first: whether it stands in front of them, behind `start`.
    """

    slot: Annotated[str, Field(min_length=1, max_length=200)]
    before: Texts
    between: Texts
    after: Texts
    numbered: Texts = ""
    alone: Texts = "{slots}"
    start: Texts = ""
    tile: Texts = "{slots}"
    row_end: Texts = ""
    whole: Texts = "{slots}"
    whole_first: bool = False
    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        texts = {name: value for name, value in vars(self).items() if name not in ("slot", "whole_first")}
        for name, value in texts.items():
            wanted = {1} if name in ("alone", "tile") else {0, 1} if name == "whole" else {0}
            if value.count("{slots}") not in wanted:
                raise ValueError(f"{name} holds {{slots}} {value.count('{slots}')} times")
            if self.slot in value:
                raise ValueError(f"{name} holds {self.slot!r:.40}, which stands for a picture's tokens alone")

    def picture(self, rows: int, columns: int, tokens: int) -> str:
        """The text of a picture, see `Slots`."""
        slots = self.slot * tokens
        if not rows:
            return self.alone.replace("{slots}", slots)
        lines = []
        for row in range(1, rows + 1):
            tiles = [self.tile.replace("{row}", str(row)).replace("{column}", str(c)) for c in range(1, columns + 1)]
            lines.append("".join(tiles) + self.row_end)
        parts = [self.whole, *lines] if self.whole_first else [*lines, self.whole]
        return (self.start + "".join(parts)).replace("{slots}", slots)

    def pictures(self, pictures: Sequence[Slots]) -> str:
        """Several pictures' text, with what stands before and between them."""
        texts = [self.picture(*slots) for slots in pictures]
        if len(texts) > 1:
            texts = [self.numbered.replace("{number}", str(i)) + text for i, text in enumerate(texts)]
        return self.before + self.between.join(texts)

    def examples(self) -> list[str]:
        """Texts that hold every tag there is."""
        return [self.picture(0, 0, 1), self.picture(MOST_ROWS, MOST_ROWS, 1), self.before, self.between, self.after]


def refuse_other_text(layout: ImageLayout | None, text: ImageText | None, where: str, names: tuple[str, str]) -> None:
    """Raises InputError if a layout of pictures and what stands around them in the text are not of one model.

    Args:
        layout: the model's; None: its pictures are not in its text.
        text: of the chat template.
        where: their file or folder, for messages.
        names: what the two are called there.
    """
    if (layout is None) != (text is None):
        there, missing = names if text is None else names[::-1]
        raise InputError(f"{where}: {there} is there and {missing} is not; pictures in a model's text need both")
    if layout is not None and text is not None and layout.whole_first != text.whole_first:
        raise InputError(
            f"{where}: {names[0]}.whole_first is {layout.whole_first}, {names[1]}.whole_first {text.whole_first}; the "
            "whole picture stands in one place"
        )
