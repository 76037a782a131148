"""Bundles on CPUs that this machine is not: the same tokens on arm64, older x86-64, and in C++, as in Python here.

    python -m benchmarks.other_cpus BUNDLE ... [--cpu MODEL ...]

Every bundle answers its self-test and three questions about real images. The answers have to be, token by token, those
that the bundle gives here in its own runtime, and the self-test's those in its manifest:

    ONNX, OpenVINO    this project's runtimes on arm64 (the runtime's arm64 wheel under an arm64 Python) and on x86-64
                      without VNNI
    ExecuTorch        the C++ runner (runtimes/executorch/runner), on x86-64 and on arm64

These CPUs are emulated (qemu-user): what is proven is that the kernels that these CPU models select compute the same
answers; the seconds say how long the proof takes and nothing about a device. The first run fetches 0.6 GB of
packages into build/other_cpus; as root it installs Debian's compilers, otherwise it prints the line that does.
Exit codes: 0 all equal, 1 a row differs, 2 bad input or a missing tool.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.answers import MAX_NEW_TOKENS, answers, questions
from benchmarks.arm64 import CPU_MODELS, EMULATORS, Arm64, install, prepare
from benchmarks.executorch_runner import WORK, arguments_for, ask, native
from himix_edge.cli.console import print_table, progress_console
from himix_edge.errors import HimixError, InputError
from himix_edge.runtimes.executorch import build_runner
from himix_edge.runtimes.registry import ProgramBoard, Runtime, all_runtimes, find_runtime
from himix_edge.runtimes.verifying import open_verified

OLDER = "Haswell"  # of 2013: AVX2, no VNNI
CROSS = "aarch64-linux-gnu-g++"
Answer = Callable[[], list[list[int]]]


@dataclass(frozen=True)
class Row:
    """One bundle on one CPU: which of its answers are equal, self-test first, or why there are none."""

    bundle: str
    runner: str
    cpu: str
    equal: tuple[bool, ...]
    seconds: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and bool(self.equal) and all(self.equal)

    @property
    def tokens(self) -> str:
        """The table's words for it."""
        if self.problem:
            return self.problem
        if self.passed:
            return f"equal, {len(self.equal)} of {len(self.equal)}"
        return f"self-test {'equal' if self.equal[0] else 'DIFFERS'}, {sum(self.equal)} of {len(self.equal)} equal"


def on_x86_64(system: Arm64, *arguments: str | Path) -> list[str]:
    """A command line that runs this Python on an emulated x86-64 CPU without the instructions for int8 sums (VNNI)."""
    path = f"PYTHONPATH={system.project}:{sysconfig.get_path('purelib')}"
    qemu = [str(system.qemu.with_name(EMULATORS[1])), "-cpu", OLDER, "-E", path, "-E", "PYTHONDONTWRITEBYTECODE=1"]
    return [*qemu, os.path.realpath(sys.executable), *map(str, arguments)]


def in_python(command: Callable[..., list[str]], bundle: Path) -> list[list[int]]:
    """The answers of an ONNX or OpenVINO bundle in this project's runtimes, in the Python that `command` starts.

    Raises:
        InputError: it ended otherwise; the text is the last line it said.
    """
    script = Path(__file__).with_name("answers.py")
    done = subprocess.run(command("-P", script, bundle), check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(said[-1])
    result = json.loads(done.stdout.splitlines()[-1])
    if not result["self_test"]:
        raise InputError(f"the self-test failed; tokens {result['token_ids']}")
    tokens: list[list[int]] = result["token_ids"]
    return tokens


def in_cpp(command: Sequence[str], bundle: Path) -> list[list[int]]:
    """The answers of an ExecuTorch bundle in the C++ runner that `command` starts."""
    opened = open_verified(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        return [
            ask(command, arguments_for(opened, prompt, image, Path(scratch) / "pixels", MAX_NEW_TOKENS))[0]["token_ids"]
            for prompt, image in questions(bundle)
        ]


def compare(bundle: Path, runner: str, cpu: str, expected: list[list[int]], answer: Answer) -> Row:
    """Time `answer` and hold its tokens against those given here."""
    began = time.monotonic()
    try:
        given = answer()
    except InputError as error:
        return Row(bundle.name, runner, cpu, (), time.monotonic() - began, str(error))
    equal = tuple(mine == theirs for mine, theirs in zip(given, expected, strict=True))
    return Row(bundle.name, runner, cpu, equal, time.monotonic() - began)


def prove(bundles: Sequence[Path], cpus: Sequence[str] = CPU_MODELS) -> list[Row]:
    """Set up what the bundles need and run each of them on every CPU.

    Raises:
        InputError: not a bundle, a target that has no runner here, an unknown CPU model, a missing tool.
        GateRefused: a file that is not what its manifest says.
    """
    targets = {path: find_runtime(open_verified(path).manifest.target) for path in bundles}
    for path, target in targets.items():
        if target.board is None:
            ours = [runtime.name for runtime in all_runtimes() if runtime.board is not None]
            raise InputError(f"{path}: no runner for target {target.name} on other CPUs; {', '.join(ours)} have one")
    if os.uname().machine != "x86_64":
        raise InputError(f"this proof runs on x86-64; on {os.uname().machine}, use himix verify")
    if any(isinstance(target.board, ProgramBoard) for target in targets.values()):
        install({"g++": "g++", "nm": "binutils", CROSS: build_runner.debian_package(CROSS)})
    system = prepare(WORK)
    for cpu in cpus:
        if subprocess.run(system.python(cpu, "-c", ""), check=False, capture_output=True).returncode:
            raise InputError(f"qemu runs no arm64 program as CPU model {cpu!r}; '{system.qemu} -cpu help' lists them")
    rows = []
    for path, target in targets.items():
        expected = [open_verified(path).manifest.selftest.token_ids, *answers(path)[1:]]
        for cpu, answer in _runs(path, target, system, cpus):
            row = compare(path, target.title, cpu, expected, answer)
            progress_console.print(f"{row.bundle} on {row.cpu}: {row.tokens}, {row.seconds:.1f} s", highlight=False)
            rows.append(row)
    return rows


def _runs(bundle: Path, target: Runtime, system: Arm64, cpus: Sequence[str]) -> Iterator[tuple[str, Answer]]:
    """The CPUs that a bundle is to answer on, and how."""
    if isinstance(target.board, ProgramBoard):
        cross = build_runner.build(system.site, WORK / "runner-aarch64", CROSS, "aarch64")
        yield "x86-64 here", partial(in_cpp, [str(native())], bundle)
        yield from ((f"arm64 {cpu}", partial(in_cpp, system.command(cpu, cross), bundle)) for cpu in cpus)
    else:
        yield from ((f"arm64 {cpu}", partial(in_python, partial(system.python, cpu), bundle)) for cpu in cpus)
        yield f"x86-64 {OLDER}", partial(in_python, partial(on_x86_64, system), bundle)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="an exported bundle")
    parser.add_argument("--cpu", action="append", metavar="MODEL", help=f"arm64 CPU model [{', '.join(CPU_MODELS)}]")
    given = parser.parse_args()
    try:
        rows = prove(given.bundles, given.cpu or CPU_MODELS)
    except HimixError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    columns = ("bundle", "runner", "CPU", "answers", "seconds")
    print_table("", columns, [(row.bundle, row.runner, row.cpu, row.tokens, row.seconds) for row in rows])
    print("Other CPUs are emulated: their instructions are proven, the seconds are no device's.")
    wrong = [f"{row.bundle} on {row.cpu}: {row.tokens}" for row in rows if not row.passed]
    if wrong:
        print("error: " + "; ".join(wrong), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
