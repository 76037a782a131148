"""Names that travel: of bundles, models and devices, into file names, commands of a phone's shell, and reports."""

import re
from typing import Annotated

from pydantic import StringConstraints

MAX_NAME = 128
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=MAX_NAME)]
"""Letters, digits, `.`, `_` and `-`, no dot or dash in front: nothing that a shell or a file system reads otherwise.

(pydantic's `$` is the end alone, not the place before a last newline.)
"""


def as_name(text: str, default: str = "model") -> str:
    """A `Name` made of any text: what is not allowed becomes `-`; `default` where nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-").rstrip("-")[:MAX_NAME]
    return name or default
