"""What a run is going to need, looked at before it starts: a bad image of hour five is named in minute one."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from himix_edge.data import Dataset
from himix_edge.data.image_files import is_file
from himix_edge.errors import InputError
from himix_edge.image_files import BYTES, FORMATS, MAX_FILE_BYTES, decode_file, refuse_large
from himix_edge.reading import read_bytes

DECODED = 1000  # images that are decoded; of the others, which may be hundreds of thousands, the head is read
SHOWN = 2000  # images from which on a bar is worth its line


def check_images(datasets: Iterable[Dataset]) -> None:
    """Every image that a record of a file names: there, of a kind that is read, not too large, the first ones whole.

    Raises:
        InputError: naming file, record and image.
    """
    found: dict[Path, str] = {}
    for dataset in datasets:
        for sample in dataset.samples if dataset.from_records else ():
            if isinstance(sample.image, Path):
                found.setdefault(sample.image, sample.where)
    bar = track(found.items(), "checking images", console=Console(stderr=True), disable=len(found) < SHOWN)
    for number, (path, where) in enumerate(bar):
        try:
            _check(path, whole=number < DECODED)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _check(path: Path, whole: bool) -> None:
    if not is_file(path):
        raise InputError(f"{path}: no such image")
    if whole:
        decode_file(read_bytes(path, MAX_FILE_BYTES), str(path))
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's words on sizes; the limits are ours
            with Image.open(path, formats=FORMATS) as image:
                width, height, each = image.width, image.height, BYTES.get(image.mode, 4)
    except Exception as error:  # Pillow raises whatever it comes across in a damaged head
        raise InputError(f"{path}: not an image that can be read ({' '.join(str(error).split())[:200]})") from None
    refuse_large(width, height, each, str(path))
