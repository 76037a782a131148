"""`make fuzz`: so many inputs over all parsers, as a table; findings end it with exit code 1.

python -m tests.fuzz --inputs 100000 [--only NAME ...] [--first 0]
python -m tests.fuzz --show NAME NUMBER > input      # the input of a finding
"""

import argparse
import random
import sys
import time
from pathlib import Path

from tests.fuzz.material import make_material
from tests.fuzz.mutations import mutated
from tests.fuzz.running import Outcome, fuzz
from tests.fuzz.targets import TARGETS, WEIGHTS

MATERIAL = Path("build/fuzz/material")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=100_000, help="over all parsers, by their weights")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each parser")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=list(TARGETS), help="these parsers alone")
    parser.add_argument("--show", nargs=2, metavar=("NAME", "NUMBER"), help="write one input to standard output")
    arguments = parser.parse_args()
    make_material(MATERIAL, deep=True)
    if arguments.show:
        name, number = arguments.show
        seeds, _ = TARGETS[name].prepare(MATERIAL, MATERIAL / "shown")
        sys.stdout.buffer.write(mutated(seeds, TARGETS[name].kind, random.Random(f"{name} {int(number)}")))
        return 0
    names = arguments.only or list(TARGETS)
    weight = sum(WEIGHTS.get(name, 1) for name in names)
    began, outcomes = time.monotonic(), []
    print(f"{'parser':28} {'inputs':>7} {'refused':>8} {'taken':>7} {'findings':>8}", flush=True)
    for name in names:
        count = -(-arguments.inputs * WEIGHTS.get(name, 1) // weight)
        outcomes += fuzz([name], MATERIAL, arguments.first, arguments.first + count, _show)
    found = sum(len(outcome.findings) for outcome in outcomes)
    inputs = sum(outcome.inputs for outcome in outcomes)
    print(f"{inputs} inputs, {found} findings, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def _show(outcome: Outcome) -> None:
    refused = outcome.inputs - outcome.taken - len(outcome.findings)
    print(f"{outcome.target:28} {outcome.inputs:7} {refused:8} {outcome.taken:7} {len(outcome.findings):8}", flush=True)
    for number, what in outcome.findings[:10]:
        print(f"    input {number}: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
