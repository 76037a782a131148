"""Builds the C++ runner of ExecuTorch bundles against the libraries of the executorch wheel.

    python -m himix_edge.runtimes.executorch.build_runner FOLDER [--compiler NAME --machine NAME --site FOLDER]

writes FOLDER/himix_executorch; it uses the wheel's libraries from where they are.

The wheel's libraries are made for Python: they name PyTorch's Python half, libpython's functions and, on arm64, CUDA.
A runner calls none of it, so stand-ins take their place: libraries of the same names whose functions stop the process.
What does run is ExecuTorch, XNNPACK and the wheel's attention kernels, and PyTorch's CPU library for the thread pool,
CPU detection and matrix product that they use from it.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from himix_edge.errors import HimixError, InputError
from himix_edge.runtimes.executorch import RUNTIME

SOURCES = Path(__file__).parent / "runner"
NAME = "himix_executorch"

# loaded before anything that names them, so the loader takes these and does not look for the real ones
STAND_INS = ("libtorch_python.so", "libtorch.so", "libcudart.so.13", "libcupti.so.13")
TRAP = {"x86_64": "ud2", "aarch64": "brk #1"}


def build(site: Path, folder: Path, compiler: str, machine: str) -> Path:
    """Compile the runner, if its sources or the compiler have changed since.

    Args:
        site: the site-packages folder that has the executorch and torch wheels of `machine`.
        folder: where it goes; it uses the libraries in `site` from where they are.
        compiler: g++ or a cross compiler's name.
        machine: "x86_64" or "aarch64".

    Returns:
        The program.

    Raises:
        InputError: no compiler, or it reports errors.
    """
    sources = sorted(SOURCES.rglob("*.*"))
    stamp = folder / "stamp.json"
    libraries = wheel_libraries(site)
    made_of = {str(path): path.read_text() for path in [*sources, Path(__file__)]}
    made_of |= {str(path): str(path.stat().st_mtime_ns) for path in libraries} | {"compiler": compiler}
    if stamp.exists() and json.loads(stamp.read_text()) == made_of:
        return folder / NAME
    if not shutil.which(compiler):
        raise InputError(f"no {compiler}; install it with: apt-get install {debian_package(compiler)}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stand_ins = make_stand_ins(libraries, folder, compiler, machine)
    wheel = site / "executorch"
    include = wheel / "include"
    linked = [*stand_ins, *libraries]
    _compile([
        compiler, "-std=c++20", "-O2", "-Wall", "-Wextra", "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-isystem", str(include), "-isystem", str(include / "executorch/runtime/core/portable_type/c10"),
        f"-I{SOURCES / 'wheel'}", *map(str, SOURCES.glob("*.cpp")), "-o", str(folder / NAME),
        "-Wl,--no-as-needed", *map(str, linked), "-Wl,--allow-shlib-undefined",
        f"-Wl,-rpath,{':'.join(dict.fromkeys(str(path.parent) for path in linked))}",
    ])  # fmt: skip
    stamp.write_text(json.dumps(made_of))
    return folder / NAME


def debian_package(compiler: str) -> str:
    """Where Debian has a compiler: "aarch64-linux-gnu-g++" is in g++-aarch64-linux-gnu."""
    return "g++" if compiler == "g++" else f"g++-{compiler.removesuffix('-g++')}"


def wheel_libraries(site: Path) -> list[Path]:
    """The wheels' own libraries that a program needs, in the order in which their names are to be resolved."""
    folders = {
        "executorch/extension/pybindings": "_portable_lib*.so",
        "executorch/extension/llm/custom_ops": "libcustom_ops_aot_lib.so",
        "executorch/backends/qualcomm": "libqnn_executorch_backend.so",  # on x86-64 it has the runtime's core
        "torch/lib": "libtorch_cpu.so",
    }
    found = [path for folder, name in folders.items() for path in sorted((site / folder).glob(name))]
    if not any(path.name.startswith("_portable_lib") for path in found):
        raise InputError(
            f"{site}: no executorch wheel there; install it with: pip install 'himix-edge[{RUNTIME.extra}]'"
        )
    return found


def make_stand_ins(libraries: Sequence[Path], folder: Path, compiler: str, machine: str) -> list[Path]:
    """Libraries that define what `libraries` miss. Calling any of it stops the process with an illegal instruction."""
    torch = next(path for path in libraries if path.name == "libtorch_cpu.so").parent
    beside = [path for path in torch.glob("*.so*") if not re.match(r"lib(torch|c10_cuda|shm|caffe2)", path.name)]
    system = [_compiler_file(compiler, name) for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1")]
    defined = {name for path in [*libraries, *beside, *system] for name in _symbols(path, "--defined-only")}
    missing = {
        name: version
        for path in libraries
        for name, version in _symbols(path, "--undefined-only").items()
        if name not in defined and not version.startswith(("GLIBC", "CXXABI", "GCC_"))
    }
    owners: dict[str, list[str]] = {library: [] for library in STAND_INS}
    for name, version in missing.items():  # CUDA's libraries mark their functions with their own name
        owners[version if version in owners else STAND_INS[0]].append(name)
    return [
        _stand_in(folder / library, names, compiler, machine)
        for library, names in owners.items()
        if names or not library.startswith("libcu")
    ]


def _stand_in(path: Path, names: Sequence[str], compiler: str, machine: str) -> Path:
    assembler, versions = path.with_name(f"{path.name}.s"), path.with_name(f"{path.name}.map")
    labels = "".join(f'.globl "{name}"\n.type "{name}", %function\n"{name}":\n' for name in names)
    assembler.write_text(f'.text\n{labels}{TRAP[machine]}\n.section .note.GNU-stack,"",%progbits\n')
    command = [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{path.name}", "-o", str(path), str(assembler)]
    if path.name.startswith("libcu"):
        versions.write_text(f'"{path.name}" {{ global: *; }};\n')
        command.append(f"-Wl,--version-script={versions}")
    _compile(command)
    return path


def _symbols(library: Path, which: str) -> dict[str, str]:
    """Names and, where the reference has one, versions; weak references are no need."""
    lines = subprocess.run(["nm", "-D", which, str(library)], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in lines.splitlines():
        *_, kind, symbol = line.split()
        if kind not in "wv" or which == "--defined-only":
            name, _, version = symbol.partition("@")
            found[name] = version.lstrip("@")
    return found


def _compiler_file(compiler: str, name: str) -> Path:
    asked = [compiler, f"-print-file-name={name}"]
    return Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())


def _compile(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{command[0]} failed:\n{done.stderr}")


def build_here(folder: Path) -> Path:
    """The runner for this machine, against the installed wheel, in `folder`. Raises InputError as `build`."""
    machine = platform.machine()
    if machine not in TRAP:
        raise InputError(f"the runner is built for {' and '.join(TRAP)}; this machine is {machine}")
    return build(Path(sysconfig.get_path("platlib")), folder, "g++", machine)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it goes; what was there is replaced")
    parser.add_argument("--compiler", default="g++", help="a cross compiler for another machine [default: g++]")
    parser.add_argument("--machine", choices=list(TRAP), default=platform.machine(), help="[default: this one's]")
    wheels = "site-packages with the executorch and torch wheels of that machine [default: this Python's]"
    parser.add_argument("--site", type=Path, default=Path(sysconfig.get_path("platlib")), help=wheels)
    given = parser.parse_args()
    try:
        print(build(given.site, given.folder, given.compiler, given.machine))
    except HimixError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
