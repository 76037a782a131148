"""Feeds inputs to parsers in a process of its own, which may hang or die: `python -m tests.fuzz.worker JOB.json`.

It writes a line to the job's report for each finding, and before each input its number to the job's progress file.
"""

import json
import mmap
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from himix_edge.errors import HimixError
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS

MEMORY = 500_000_000


def feed(job: dict[str, object]) -> None:
    """Feed a target the inputs numbered from `first` up to `last`, that one left out."""
    target = TARGETS[str(job["target"])]
    progress_file = Path(str(job["progress"])).open("r+b")  # noqa: SIM115 - held to the end
    progress = mmap.mmap(progress_file.fileno(), 16)
    with tempfile.TemporaryDirectory(prefix="himix-fuzz-") as scratch, Path(str(job["report"])).open("a") as report:
        place = Path(scratch)
        seeds, parse = target.prepare(Path(str(job["material"])), place)
        parse(target.file(place, seeds[0]))  # what is valid is taken; what is imported and kept is not counted below
        taken = 0
        for number in range(int(str(job["first"])), int(str(job["last"]))):
            content = mutated(seeds, target.kind, random.Random(f"{target.name} {number}"))
            path = target.file(place, content)
            progress[:] = struct.pack("<qq", number, taken)
            before, began, finding = _peak(reset=True), time.monotonic(), ""
            try:
                parse(path)
                taken += 1
            except HimixError:
                pass  # the command line prints it in one line, whatever stands in it
            except BaseException as error:  # a panic of a library in Rust is no Exception
                where = traceback.extract_tb(error.__traceback__)[-1]
                finding = f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
            seconds, grown = time.monotonic() - began, _peak() - before - len(content)
            if not finding and grown > MEMORY:
                finding = f"took {grown / 1e6:.0f} MB"
            if not finding and seconds > target.seconds:
                finding = f"took {seconds:.0f} s"
            if finding:
                print(json.dumps([target.name, number, finding]), file=report, flush=True)
        progress[:] = struct.pack("<qq", int(str(job["last"])), taken)


def _peak(reset: bool = False) -> int:
    """The highest resident size in bytes; `reset` makes it today's first."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        feed(job)
