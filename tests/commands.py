"""Commands as a user types them, each in a process of its own, forked from one that has imported what is slow."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SLOW_IMPORTS = ["himix_edge.cli.commands", "himix_edge.checkpoints.source", "himix_edge.export.pipeline"]
SERVER.set_forkserver_preload(SLOW_IMPORTS)


def himix(*arguments: object, cwd: Path | None = None, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """What `himix` with these arguments wrote, and its exit code. What imports cost or lack shows only a real start."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for path in streams:
            path.write_text(stdin if path.name == "stdin" and stdin else "", encoding="utf-8")
        process = SERVER.Process(target=_run, args=(words, cwd, streams, {**os.environ, "COLUMNS": "200"}))
        process.start()
        process.join()
        out, err = (path.read_text(encoding="utf-8") for path in streams[1:])
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _run(arguments: list[str], cwd: Path | None, streams: list[Path], environment: dict[str, str]) -> None:
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 multiprocessing gave it the null device
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    sys.argv = ["himix", *arguments]
    from himix_edge.cli import main

    main()
