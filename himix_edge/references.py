"""Which other files of a bundle a role's main file makes a runtime read, by the main file's format."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from himix_edge.errors import InputError
from himix_edge.onnx_files import external_data

# a runtime that is given another kind of file may read it too, by other rules
ENDINGS = {
    "onnx": ".onnx", "onnx_portable": ".onnx", "openvino": ".xml", "executorch": ".pte",
    "coreml": ".mlpackage/Manifest.json",
}  # fmt: skip


def referenced(folder: Path, target: str, name: str) -> Iterator[str]:
    """Paths relative to `folder` of what the target's runtime reads beside the main file `name`.

    Raises:
        InputError: a main file of another format than the target's, an ONNX file that cannot be parsed, or a Core ML
            package with links or anything but files in it.
    """
    if not name.endswith(ENDINGS.get(target, "")):
        raise InputError(f"{folder / name}: no file of the target {target}, which ends in {ENDINGS[target]}; refused")
    path = PurePosixPath(name)
    if path.suffix == ".onnx":
        for location in external_data(folder / name):
            # as it is written: what leaves the folder is no listed path
            yield location if path.parent == PurePosixPath(".") else f"{path.parent}/{location}"
    elif target == "openvino":  # it takes the weights from beside the graph
        yield str(path.with_suffix(".bin"))
    elif target == "coreml":  # it is given the folder
        yield from _files(folder, folder / path.parent)


def _files(folder: Path, package: Path) -> Iterator[str]:
    for entry in sorted(os.scandir(package), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder, Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path).relative_to(folder).as_posix()
        else:
            raise InputError(f"{entry.path}: a link or no regular file; refused")
