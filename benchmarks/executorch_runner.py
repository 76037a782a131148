"""The C++ runner of ExecuTorch bundles: built against the libraries of the executorch wheel, fed from a bundle.

    python -m benchmarks.executorch_runner BUNDLE --image FILE --prompt TEXT [--threads N] [--runs N]

builds it for this machine under build/other_cpus and prints what it prints: one line of JSON a run.

The wheel's libraries are made for Python: they name PyTorch's Python half, libpython's functions and, on arm64, CUDA.
A runner calls none of it, so stand-ins take their place: libraries of the same names whose functions stop the process.
What does run is ExecuTorch, XNNPACK and the wheel's attention kernels, and PyTorch's CPU library for the thread pool,
CPU detection and matrix product that they use from it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himix_edge.bundle import Bundle
from himix_edge.errors import HimixError, InputError
from himix_edge.preprocess import load_image
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import TOKENIZER, Message, TextProcessor, load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "runtimes" / "executorch" / "runner"
WORK = ROOT / "build" / "other_cpus"
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
        raise InputError(f"{site}: no executorch wheel there; install it with: pip install 'himix-edge[executorch]'")
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


def arguments_for(bundle: Bundle, prompt: str, image: Path | None, pixels: Path, max_new_tokens: int) -> list[str]:
    """The runner's arguments that ask `prompt` about an image file.

    Args:
        bundle: an ExecuTorch bundle.
        prompt: the user's message; the bundle's template is put around it.
        image: an image file, or none.
        pixels: where the resized pixels go, raw uint8 (S, S, 3).
        max_new_tokens: length of the longest answer.

    Raises:
        InputError: not an ExecuTorch bundle, an image that cannot be read, an empty prompt.
    """
    if bundle.manifest.target != "executorch":
        raise InputError(f"{bundle.folder}: a bundle for {bundle.manifest.target}; the runner takes ExecuTorch's")
    text = TextProcessor(load_tokenizer(bundle.folder / TOKENIZER), bundle.manifest.chat_template)
    arguments = ["--model", str(bundle.role_path("decoder")), "--max-new-tokens", str(max_new_tokens)]
    arguments += ["--prompt", _listed(text.encode_chat([Message("user", prompt)])), "--stop", _listed(text.stop_ids)]
    vision = bundle.config.vision
    if image is not None and vision is not None:
        pixels.write_bytes(load_image(image, vision.image_size, vision.resample).tobytes())
        position = bundle.config.first_text_position(vision.num_tokens)
        arguments += ["--pixels", str(pixels), "--position", str(position)]
    return arguments


def _listed(ids: Sequence[int] | frozenset[int]) -> str:
    return ",".join(str(i) for i in (ids if isinstance(ids, list) else sorted(ids)))


def ask(command: Sequence[str], arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Run the runner: `token_ids`, `finish_reason` and the milliseconds of each stage, per run.

    Raises:
        InputError: it failed; the text has the end of what it said.
    """
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(said[-1])
    return [json.loads(line) for line in done.stdout.splitlines()]


def native() -> Path:
    """The runner for this machine, against the installed wheel; built if it has to be."""
    machine = os.uname().machine
    if machine not in TRAP:
        raise InputError(f"the runner is built for {' and '.join(TRAP)}; this machine is {machine}")
    return build(Path(sysconfig.get_path("platlib")), WORK / f"runner-{machine}", "g++", machine)


def main() -> None:
    """Ask one question with the runner built for this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="an ExecuTorch bundle")
    parser.add_argument("--image", type=Path, help="image file")
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="length of the longest answer [default: 64]")
    parser.add_argument("--runs", type=int, default=1, help="answer so many times [default: 1]")
    parser.add_argument("--threads", type=int, help="CPU threads [default: the runtime's choice]")
    given = parser.parse_args()
    try:
        bundle, runner = open_verified(given.bundle), native()
        threads = ["--threads", str(given.threads)] if given.threads is not None else []
        with tempfile.TemporaryDirectory() as scratch:
            pixels = Path(scratch) / "pixels"
            arguments = arguments_for(bundle, given.prompt, given.image, pixels, given.max_new_tokens)
            for answer in ask([str(runner)], [*arguments, "--runs", str(given.runs), *threads]):
                print(json.dumps(answer))
    except HimixError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
