"""What the families' own layouts share."""

import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject
from himix_edge.text import later_tokenizer

ROLE = "vision_tower"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class ConfigFolder:
    """A folder with `raw` as config.json's content; what has the methods of `families.VlmFolder` is made of it."""

    folder: Path
    raw: JsonObject

    @property
    def where(self) -> str:
        """config.json, for messages."""
        return str(self.folder / "config.json")


def tower_folders(folder: Path, name: str) -> tuple[Path, Path]:
    """Where a tower called `name`, a path or hub id, may stand inside of the model's folder: so called, or by role."""
    last = Path(name).name
    return folder / (last if PLAIN_NAME.fullmatch(last) else ROLE), folder / ROLE


def thirds(tensor: LazyTensor) -> list[LazyTensor]:
    """The three equal parts of a tensor along its first dimension."""
    rows = tensor.shape[0] // 3 if tensor.shape else 0

    def third(part: int) -> LazyTensor:
        def read() -> Tensor:
            return tensor.read()[part * rows : (part + 1) * rows]

        return LazyTensor((rows, *tensor.shape[1:]), read)

    return [third(part) for part in range(3)]


def image_slot(tokenizer: Tokenizer, token: str, rows: int, where: str) -> int:
    """The id of the token that stands for a feature.

    Raises:
        InputError: the tokenizer has no such token, or the embedding no row for it.
    """
    number = tokenizer.token_to_id(token)
    if number is None or number >= rows:
        raise InputError(f"{where}: the tokenizer has no {token}, or the embedding's {rows} rows none for it")
    return int(number)


def read_apart(tokenizer: Tokenizer, ahead: str, words: str, where: str) -> str:
    """What has to stand in front of `words` behind a special token, so that they are read as a text of their own is.

    LLaVA's code gives the tokenizer each side of a picture by itself. One that puts a space in front of a text does it
    for both; behind a special token it may do it of itself, or want that space written out.

    Args:
        tokenizer: the model's.
        ahead: what its code writes in front of the words.
        words: any.
        where: the folder, for messages.

    Returns:
        `ahead`, or a space and `ahead`.

    Raises:
        InputError: neither gives the ids of the text alone.
    """
    wanted = tokenizer.encode(ahead + words, add_special_tokens=False).ids
    later = later_tokenizer(tokenizer)
    for text in (ahead, f" {ahead}"):
        if later.encode(text + words, add_special_tokens=False).ids == wanted:
            return text
    raise InputError(f"{where}: its tokenizer reads what follows a picture in a way that is not supported")
