"""An arm64 Linux made of packages, run by qemu-user: Debian's Python 3.11 and C library, and the arm64 wheels.

Everything lies in one folder. Debian's packages are fetched by a private apt (its own lists, its own idea of what is
installed) and unpacked; the machine's own apt is asked for its mirror and not changed. qemu emulates the instructions
of the CPU model that it is given, so a run proves that they compute the right thing. It says nothing about speed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path

from himix_edge.bench.devices.runner import board_runtimes
from himix_edge.cli.console import progress_console
from himix_edge.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
QEMU = ("trixie", "amd64", ("qemu-user",))  # bookworm's qemu, 7.2, is too old
EMULATORS = ("qemu-aarch64", "qemu-x86_64")  # the package has one for every architecture, half a gigabyte
PYTHON = ("bookworm", "arm64", ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6"))
GLIBC = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17")  # what wheels may ask of bookworm's 2.36
CPU_MODELS = ("max", "cortex-a76")


@dataclass(frozen=True)
class Arm64:
    """The unpacked system. `site` has the wheels, `project` this project's packages as they are now."""

    qemu: Path
    root: Path
    site: Path
    project: Path

    def command(self, cpu: str, *arguments: str | Path) -> list[str]:
        """A command line that runs an arm64 program as on `cpu`, a model that qemu knows ("max": all it can)."""
        return [str(self.qemu), "-cpu", cpu, "-L", str(self.root), *map(str, arguments)]

    def python(self, cpu: str, *arguments: str | Path) -> list[str]:
        """A command line that runs Python with the wheels and this project."""
        settings = {
            "PYTHONHOME": self.root / "usr",
            "PYTHONPATH": f"{self.project}:{self.site}",
            "PYTHONDONTWRITEBYTECODE": "1",  # the project's folders are this machine's
        }
        given = [word for name, value in settings.items() for word in ("-E", f"{name}={value}")]
        qemu, *rest = self.command(cpu, self.root / "usr/bin/python3.11", *arguments)
        return [qemu, *given, *rest]


def install(tools: dict[str, str]) -> None:
    """Have these programs on this machine: {program: Debian package}.

    Raises:
        InputError: one is missing and this is not root; the text has the line to run.
    """
    missing = sorted({package for program, package in tools.items() if not shutil.which(program)})
    if not missing:
        return
    line = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise InputError(f"needs Debian's {', '.join(missing)}; as root: {' '.join(line)}")
    _say(f"installing {', '.join(missing)}")
    _run(["apt-get", "update"])
    _run(line)


def prepare(work: Path) -> Arm64:
    """Fetch and unpack what is missing in `work`; finished parts are kept until what they are made of changes.

    Raises:
        InputError: a tool is missing, or a package cannot be fetched.
    """
    install({"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"})
    qemu, root, site = work / "qemu", work / "arm64", work / "arm64-wheels"
    _once(qemu, [*_words(QEMU), *EMULATORS], _unpack_qemu)
    _once(root, _words(PYTHON), lambda to: _unpack(to, *PYTHON))
    torch = [f"{name}=={version(name)}" for name in ("executorch", "torch")]
    torch = [name.partition("+")[0] for name in torch]
    needs = [*(need for need in requires("himix-edge") or () if "extra ==" not in need)]
    needs += dict.fromkeys(runtime.packages[0] for runtime in board_runtimes())
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    _once(site, [*needs, *torch, *constraints], lambda to: _unpack_wheels(to, needs, torch))
    project = work / "project"
    _link_project(project)
    return Arm64(qemu / "usr/bin" / EMULATORS[0], root, site, project)


def _once(folder: Path, made_of: Sequence[str], make: Callable[[Path], None]) -> None:
    """Call `make` with a fresh folder, which becomes `folder`, unless it is there and made of the same."""
    stamp = folder / "made-of.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(made_of):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
        fresh = Path(staging) / folder.name
        fresh.mkdir()
        make(fresh)
        (fresh / stamp.name).write_text(json.dumps(list(made_of)))
        fresh.rename(folder)


def _words(packages: tuple[str, str, tuple[str, ...]]) -> list[str]:
    suite, architecture, names = packages
    return [suite, architecture, *names]


def _unpack_qemu(folder: Path) -> None:
    _unpack(folder, *QEMU)
    for program in (folder / "usr/bin").iterdir():
        if program.name not in EMULATORS:
            program.unlink()


def _unpack(folder: Path, suite: str, architecture: str, names: Sequence[str]) -> None:
    """Fetch Debian packages and all that they depend on, and unpack them."""
    if not KEYRING.exists():
        raise InputError(f"{KEYRING} is missing; as root: apt-get install debian-archive-keyring")
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch)
        (state / "lists/partial").mkdir(parents=True)
        (state / "cache/archives/partial").mkdir(parents=True)
        (state / "parts").mkdir()
        (state / "status").touch()
        (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::State::lists": state / "lists",
            "Dir::Cache": state / "cache",
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": state / "parts",
            "Dir::Etc::preferencesparts": state / "parts",
            "Debug::NoLocking": "true",
        }
        # not as -o options: the architecture has to be known before the lists are read
        (state / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        environment = os.environ | {"APT_CONFIG": str(state / "apt.conf")}
        _say(f"fetching {', '.join(names)} for {architecture}, Debian {suite}")
        _run(["apt-get", "update"], environment)
        _run(["apt-get", "install", "-y", "--download-only", *names], environment)
        for package in sorted((state / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(folder)])


def _mirror() -> str:
    """Where this machine gets Debian's packages from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.split()
    if not found:
        raise InputError("apt knows no Debian mirror; run apt-get update, on Debian, and try again")
    return found[0]


def _unpack_wheels(folder: Path, needs: Sequence[str], alone: Sequence[str]) -> None:
    """Fetch the arm64 wheels of `needs` with their dependencies, and of `alone` without, and unpack them."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", "3.11"]
        pip += ["-d", scratch, *(word for glibc in GLIBC for word in ("--platform", f"manylinux_{glibc}_aarch64"))]
        _say("fetching arm64 wheels")
        _run([*pip, "--platform", "manylinux2014_aarch64", "-c", str(ROOT / "constraints.txt"), *needs])
        _run([*pip, "--no-deps", *alone])
        for wheel in sorted(Path(scratch).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if _needed(wheel.name, name)])


def _needed(wheel: str, member: str) -> bool:
    """Of PyTorch only what ExecuTorch's libraries call: its CPU library and what that one needs."""
    if not wheel.startswith("torch-"):
        return True
    name = member.removeprefix("torch/lib/")
    return name != member and ".so" in name and not any(word in name for word in ("cuda", "python", "nvshmem", "shm"))


def _link_project(folder: Path) -> None:
    """This project's packages under the names that they are installed as, with the version they ask for."""
    package, about = folder / "himix_edge", folder / f"himix_edge-{version('himix-edge')}.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: himix-edge\nVersion: {version('himix-edge')}\n")
    targets = {path.name: path for path in (*(ROOT / "himix_edge").iterdir(), ROOT / "export", ROOT / "runtimes")}
    for link in package.iterdir():
        if link.readlink() != targets.get(link.name):
            link.unlink()
    for name in targets.keys() - {link.name for link in package.iterdir()}:
        (package / name).symlink_to(targets[name])


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{' '.join(command[:3])} failed: {said[-1]}")


def _say(what: str) -> None:
    progress_console.print(f"{what} ...", highlight=False)
