"""The board's runner as one file: a zip of this project's own modules that `python3 runner.pyz` executes."""

import zipfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import himix_edge.errors
from himix_edge.bench import bandwidth, cores, digest, host, job, measuring, power, probes, sustained
from himix_edge.bench.devices import board
from himix_edge.runtimes import engine, ports
from himix_edge.runtimes.registry import PythonBoard, Runtime, all_runtimes

BENCH = (bandwidth, cores, digest, host, job, measuring, power, probes, sustained)


def board_runtimes() -> list[Runtime]:
    """The runtimes that a board runs in Python."""
    return [runtime for runtime in all_runtimes() if isinstance(runtime.board, PythonBoard)]


def build_runner(path: Path) -> None:
    """Write the runner. The same sources give the same bytes, so that a board need not get it twice."""
    own = Path(str(board.__file__)).parent
    sources = {
        "__main__.py": own / "main.py",
        "himix_edge/errors.py": Path(himix_edge.errors.__file__),
        "himix_edge/config.py": own / "config.py",
        "himix_edge/runtimes/engine.py": Path(engine.__file__),
        "himix_edge/runtimes/ports.py": Path(ports.__file__),
        **{f"himix_edge/bench/{Path(str(m.__file__)).name}": Path(str(m.__file__)) for m in BENCH},
    }
    for runtime in board_runtimes():
        assert isinstance(runtime.board, PythonBoard)
        sources |= {f"{module.replace('.', '/')}.py": _source(module) for module in runtime.board.modules}
    content = {name: source.read_bytes() for name, source in sources.items()}
    folders = {str(folder) for name in sources for folder in PurePosixPath(name).parents} - {"."}
    content |= {f"{folder}/__init__.py": b"" for folder in folders}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name), content[name], zipfile.ZIP_DEFLATED)  # a ZipInfo is stored as it is


def _source(module: str) -> Path:
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)
