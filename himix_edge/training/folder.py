"""A run's folder: held by one run at a time, continued, or replaced as a whole when the new run is complete.

It holds `last/` (what has learned, the optimizer and the step), `final/` (the checkpoint to use), `metrics.csv`,
`metrics.png`, the texts that the model wrote itself, and what a teacher said about pictures. `himix train --force`
works beside it, in the staging folder, so that the earlier run stays whole until the new one is.
"""

import contextlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from himix_edge.checkpoints import CHECKPOINT
from himix_edge.errors import InputError
from himix_edge.folders import RECORD, Replacing, write_record
from himix_edge.staging import NEW, Staging, remove, settled, staging, staging_folder, tidy

LAST, FINAL, METRICS, PLOT, OWN_TEXTS = "last", "final", "metrics.csv", "metrics.png", "own_texts.safetensors"
CONVERSATIONS = "conversations.json"
FILES = (METRICS, PLOT, OWN_TEXTS, CONVERSATIONS)
KIND, STATE_KIND = "training run", "training state"


@contextlib.contextmanager
def run_folder(
    folder: Path, resume: bool, force: bool, keep: tuple[Path, ...], main: bool, meet: Callable[[], None]
) -> Iterator[Path]:
    """The folder to work in, held until the block ends.

    Args:
        folder: the run's folder, as the user calls it.
        resume: continue the run there, or the one beside it that is to replace it.
        force: replace an earlier run.
        keep: files and folders that the run reads.
        main: whether this is the first of the run's processes; the others only work in what it prepares.
        meet: waits for the other processes.

    Raises:
        InputError: the folder holds a run already and neither `resume` nor `force` is set, something else, or another
            run is going on there; or it cannot be written.
    """
    if not main:
        meet()
        yield _work(folder)
        return
    with staging(folder, busy="another training run is going on here", resumable=True) as place:
        replacing = Replacing(KIND, force, keep)
        existed = place.target.is_dir()
        work = _continued(folder, place) if resume else _begun(folder, place, replacing)
        try:
            meet()
            yield work
        except BaseException:
            if work == place.new and not (work / LAST).exists():
                remove(work)
            else:
                _forget_beginning(work, existed)
            raise
        if work == place.new and (work / FINAL).is_dir():
            place.publish(work, lambda: Replacing(KIND, True, keep).check(folder, place))


def _begun(folder: Path, place: Staging, replacing: Replacing) -> Path:
    """The folder of a new run: its own, or one beside an earlier run that it is to replace."""
    tidy_run(place.target)
    earlier = (place.target / LAST).exists() or (place.target / FINAL).exists()
    if not replacing.force and earlier and (place.target / RECORD).is_file():
        raise InputError(
            f"{folder}: holds a training run already; add --resume to continue it, --force to replace it, or choose "
            "another --out"
        )
    replace(replacing, force=replacing.force or not earlier).check(folder, place)
    remove(place.new)
    work = place.new if earlier else place.target
    work.mkdir(exist_ok=True)
    for leftover in FILES:  # of a run that was killed before its first save
        remove(work / leftover)
    write_record(work, KIND, FILES)
    return work


def _continued(folder: Path, place: Staging) -> Path:
    """The folder of a run to resume."""
    tidy_run(place.new)
    if not (place.new / LAST).exists():
        remove(place.new)
    work = _work(folder)
    if work == place.target and work.exists():
        info = work.lstat()
        if stat.S_ISLNK(info.st_mode) or not place.is_mine(info):
            raise InputError(f"{folder}: a link, or another user's; give the run's own folder")
    tidy_run(work)
    if not (work / LAST).exists():
        raise InputError(f"{folder}: nothing to resume; start the run without --resume")
    for name, kind in ((LAST, STATE_KIND), (FINAL, CHECKPOINT)):
        with staging(work / name) as inner:
            Replacing(kind, force=True).check(folder / name, inner)
    return work


def tidy_run(work: Path) -> None:
    """Take away what a killed run left beside its files."""
    if work.is_dir() and not work.is_symlink():
        for name in (LAST, FINAL, *FILES):
            tidy(work / name)


def _work(folder: Path) -> Path:
    """Where a prepared run works: beside the folder that it is to replace, or in it."""
    target = settled(folder)
    beside = staging_folder(target) / NEW
    return beside if (beside / RECORD).is_file() else target


def _forget_beginning(work: Path, existed: bool) -> None:
    """Remove a run that never came to anything that is worth keeping."""
    if work.is_dir() and [path.name for path in work.iterdir()] == [RECORD]:
        (work / RECORD).unlink()
        if not existed:
            work.rmdir()
