"""Names of images in files that nobody vouches for: they may lead nowhere but into their folder, and to images only."""

import stat
from pathlib import Path

from himix_edge.errors import InputError


def image_inside(folder: Path, name: str, where: str) -> Path:
    """The image `name` below `folder`. Raises InputError naming `where` if the name, or a link, leads out of it."""
    try:
        root = folder.resolve()
        image = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, half a character; links in a circle
        raise InputError(f"{where}: image {name!r} is no name of a file ({error})") from None
    if not image.is_relative_to(root) or image == root:
        raise InputError(f"{where}: image {name!r} leaves the image folder {folder}")
    return image


def is_file(path: Path) -> bool:
    """Whether a regular file is there: no folder, no pipe that might never end, no name that cannot be."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
