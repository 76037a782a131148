"""Graphs compiled for a chip: a context binary beside a small ONNX file that names it, in a folder of the chip's name.

The compiler runs in a process of its own: what it refuses it writes to a file where it stands, and it may crash.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from himix_edge.errors import InputError, one_line
from himix_edge.runtimes.onnx_qnn.chips import open_for

TRACE = "qnn_op_trace.json"
SHOWN = 3  # refused nodes in a message


def compile_for(chip: str, graph: Path) -> list[Path]:
    """Compile one graph into the folder `chip` beside it; the files that were made.

    Raises:
        InputError: nodes that the NPU does not take, each named with the compiler's reason; or it crashed.
    """
    out = graph.parent / chip / graph.name
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "himix_edge.export.targets.onnx_qnn.compiling", chip, str(graph), str(out)]
        places = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, check=False, errors="replace",
            env={**os.environ, "PYTHONPATH": places},
        )  # fmt: skip
        if done.returncode:
            raise InputError(f"{graph.name}: not compiled for {chip}: {_why(Path(scratch) / TRACE, done)}")
    return [out, *sorted(out.parent.glob(f"{out.stem}*.bin"))]


def _why(trace: Path, done: "subprocess.CompletedProcess[str]") -> str:
    refused = json.loads(trace.read_text(encoding="utf-8"))["unsupported_nodes"] if trace.exists() else []
    named = [f"{node['op_type']} {node['node_name']} ({node['reason']})" for node in refused[:SHOWN]]
    more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    said = [line for line in done.stderr.splitlines() if line.strip()] or [f"the compiler ended with {done.returncode}"]
    return one_line(f"the NPU does not take {', '.join(named)}{more}" if named else said[-1])


def _main(chip: str, graph: str, out: str) -> None:
    entries = {"ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": out}
    try:
        open_for(Path(graph), chip, entries, {"enable_framework_op_trace": "1"})
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(*sys.argv[1:])
