"""Make a folder with the page and bundles that any static host can serve: the page keeps itself for use offline.

    python web_demo/dist.py bundles/nano-onnx_portable-int8 [MORE ...] [--out build/web]

A service worker gives the page the headers for threads, so the host need not send any. ONNX Runtime's wasm files are
gzipped. The host has to speak https, or be localhost.
"""

import argparse
import base64
import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from himix_edge.bundle import MANIFEST, all_files
from himix_edge.errors import HimixError, InputError
from himix_edge.folders import RECORD, Replacing, staged_folder
from himix_edge.runtimes.verifying import open_verified

PAGE = Path(__file__).resolve().parent
KIND = "web page"
TARGET = "onnx_portable"
PLAIN = ("index.html", "style.css", "manifest.webmanifest", "icon.svg", "icon-180.png", "icon-192.png", "icon-512.png")
ORT = "onnxruntime-web/dist"
TOKENIZERS = "@huggingface/tokenizers/dist/tokenizers.min.mjs"
CPU = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
GPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
LATER = (*GPU[:2], f"{GPU[2]}.gz")  # kept when a device first uses them
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".png": "image/png",
    ".webmanifest": "application/manifest+json", ".json": "application/json", ".gz": "application/gzip",
}  # fmt: skip
DELIVERY = """// How this copy of the page is delivered: made by dist.py.

export const VENDOR = new URL("../vendor/", import.meta.url);
export const COMPRESSED = true;
export const OFFLINE = true;
"""


def make(out: Path, bundles: list[Path]) -> None:
    """Write the folder; an earlier one at `out` is replaced.

    Args:
        out: the folder to make.
        bundles: `onnx_portable` bundles; each is verified and copied.

    Raises:
        HimixError: no such bundle, one that is damaged or for another runtime, missing npm packages, or something
            else is at `out`.
    """
    modules = PAGE / "node_modules"
    missing = [name for name in (f"{ORT}/{CPU[0]}", TOKENIZERS) if not (modules / name).is_file()]
    if missing:
        raise InputError(f"{modules / missing[0]}: missing; run `make web-dist`, or `npm install` in {PAGE}")
    with staged_folder(out, Replacing(KIND, force=True, keep=tuple(bundles))) as folder:
        for name in PLAIN:
            shutil.copy(PAGE / name, folder / name)
        shutil.copytree(PAGE / "src", folder / "src")
        (folder / "src/delivery.js").write_text(DELIVERY, encoding="utf-8")
        _replace(folder / "src/text.js", "../node_modules/", "../vendor/")
        _copy_vendor(modules, folder / "vendor")
        names = [_copy_bundle(bundle, folder / "bundles") for bundle in bundles]
        (folder / "bundles/index.json").write_text(json.dumps(names))
        (folder / ".nojekyll").touch()  # GitHub's pages would leave files out
        list_files(folder)


def list_files(folder: Path) -> None:
    """Write the service worker with the names and hashes of the folder's files, after whatever changed there."""
    shutil.copy(PAGE / "service_worker.js", folder / "service_worker.js")
    files = json.dumps(dict(_files(folder)), indent=1)
    _replace(folder / "service_worker.js", "const FILES = {};", f"const FILES = {files};")


def _copy_vendor(modules: Path, vendor: Path) -> None:
    for name in (TOKENIZERS, *(f"{ORT}/{name}" for name in (*CPU, *GPU))):
        target = vendor / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".wasm":
            packed = gzip.compress((modules / name).read_bytes(), mtime=0)
            target.with_suffix(".wasm.gz").write_bytes(packed)
        else:
            shutil.copy(modules / name, target)


def _copy_bundle(source: Path, bundles: Path) -> str:
    manifest = open_verified(source).manifest
    if manifest.target != TARGET:
        raise InputError(f"{source}: a bundle for {manifest.target}; a browser runs {TARGET}")
    if (bundles / manifest.name).exists():
        raise InputError(f"{source}: a second bundle with the name {manifest.name}; name each once")
    for path in (MANIFEST, *(record.path for record in all_files(manifest))):
        target = bundles / manifest.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target)
    return manifest.name


def _files(folder: Path) -> Iterator[tuple[str, tuple[str, bool, str]]]:
    """For the service worker: every file of the page, and of bundles what says which files they have."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        of_bundle = name.startswith("bundles/") and path.name not in ("index.json", MANIFEST)
        if path.is_dir() or of_bundle or path.name in ("service_worker.js", RECORD) or path.suffix not in TYPES:
            continue
        digest = base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        yield name, (digest, path.name not in LATER, TYPES[path.suffix])


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise InputError(f"{path.name}: has no {old!r}; dist.py has to be changed with it")
    path.write_text(text.replace(old, new), encoding="utf-8")


def main() -> int:
    """Returns the exit code: the error's own, 2 or 3, for something that cannot be made."""
    parser = argparse.ArgumentParser(description="Make a folder for any static host.")
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folder of an onnx_portable bundle")
    parser.add_argument("--out", type=Path, default=Path("build/web"), help="the folder to make (default build/web)")
    arguments = parser.parse_args()
    try:
        make(arguments.out, arguments.bundles)
    except HimixError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out}: {size / 1e6:.1f} MB; copy it to any static host, or: ", end="")
    print(f"python -m http.server --directory {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
