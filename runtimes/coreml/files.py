"""What Core ML reads of a package: all of it."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from himix_edge.errors import InputError


def package_files(folder: Path, name: str) -> Iterator[str]:
    """Every file of the package whose Manifest.json is `name`: Core ML is given the package's folder.

    Raises InputError for links or anything but files in it.
    """
    yield from _files(folder, folder / PurePosixPath(name).parent)


def _files(folder: Path, package: Path) -> Iterator[str]:
    for entry in sorted(os.scandir(package), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder, Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path).relative_to(folder).as_posix()
        else:
            raise InputError(f"{entry.path}: a link or no regular file; refused")
