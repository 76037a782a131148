"""The board's runner as one file: a zip of this project's own modules that `python3 runner.pyz` executes."""

import zipfile
from pathlib import Path

import himix_edge.errors
import himix_edge.runtimes
from himix_edge.bench import bandwidth, digest, host, job, measuring, probes
from himix_edge.bench.devices import board

TARGETS = ("onnx", "onnx_portable", "openvino")
ENGINES = (
    *(f"{target}/engine.py" for target in TARGETS),
    "openvino/cache.py",
    "openvino/signal_stack.py",
)
BENCH = (bandwidth, digest, host, job, measuring, probes)


def build_runner(path: Path) -> None:
    """Write the runner. The same sources give the same bytes, so that a board need not get it twice."""
    own, engines = Path(str(board.__file__)).parent, Path(str(himix_edge.runtimes.__file__)).parent
    sources = {
        "__main__.py": own / "main.py",
        "himix_edge/errors.py": Path(himix_edge.errors.__file__),
        "himix_edge/config.py": own / "config.py",
        "himix_edge/runtimes/engine.py": own / "engine.py",
        **{f"himix_edge/runtimes/{name}": engines / name for name in ENGINES},
        **{f"himix_edge/bench/{Path(str(m.__file__)).name}": Path(str(m.__file__)) for m in BENCH},
    }
    content = {name: source.read_bytes() for name, source in sources.items()}
    packages = ["himix_edge", "himix_edge/runtimes", "himix_edge/bench"]
    packages += [f"himix_edge/runtimes/{target}" for target in TARGETS]
    content |= {f"{package}/__init__.py": b"" for package in packages}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name), content[name])
