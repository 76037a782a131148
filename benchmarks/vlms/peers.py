"""One folder's bundles beside what others make of it, in one run of alternating processes.

    python -m benchmarks.vlms.peers --ours BUNDLE [--ours BUNDLE ...] [--optimum DIR] [--llama DIR] [--peers PYTHON]

--optimum is what `benchmarks.vlms.optimum_openvino.build` exported, --llama what `benchmarks.vlms.llama_cpp.build`
converted, --peers the interpreter of an environment that has both. Run it on an idle machine.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

from rich.progress import track

from benchmarks.timing import timed_apart
from himix_edge.cli.console import print_table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, action="append", default=[])
    parser.add_argument("--optimum", type=Path)
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    runs = {path.name: ("ours", path, sys.executable) for path in arguments.ours}
    if arguments.optimum:
        runs["optimum-intel"] = ("optimum_openvino", arguments.optimum, arguments.peers)
    if arguments.llama:
        runs["llama.cpp mtmd"] = ("llama_cpp", arguments.llama, arguments.peers)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in track(range(arguments.rounds), "timing"):
        for name, (module, path, python) in runs.items():
            for case, values in timed_apart(f"benchmarks.vlms.{module}", path, python).items():
                times.setdefault((case, name), []).extend(values)
    rows = [(*where, median(values), min(values), max(values)) for where, values in sorted(times.items())]
    print_table("Latency in ms", ("case", "runtime", "median", "least", "most"), rows)


if __name__ == "__main__":
    main()
