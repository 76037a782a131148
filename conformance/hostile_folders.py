"""Whole bundles with one thing wrong each: files that are damaged, and files that are not what they seem."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from himix_edge.runtimes.registry import runtime_names

REFUSED = "refused"
MANIFEST = "manifest.json"
MAX_MANIFEST = 4 << 20  # bytes


def bundles(bundle: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Plain files only, so that they can be served, zipped or copied to a phone."""
    good = json.loads((bundle / MANIFEST).read_text())
    weights = {role: max(records, key=lambda r: r["bytes"])["path"] for role, records in good["roles"].items()}
    decoder = weights["decoder"]

    def case(name: str, change: Callable[[Path], Any], *words: str, runtime: bool = False) -> dict[str, Any]:
        folder = _copied(bundle, out / name)
        change(folder)
        return {"name": name, "folder": folder, "expect": REFUSED, "words": words, "runtime": runtime}

    def edited(name: str, field: tuple[str | int, ...], value: Any, *words: str) -> dict[str, Any]:
        return case(name, lambda folder: _edit(folder, field, value), *words)

    injector, encoder = weights["vision_injector"], weights["vision_encoder"]
    yield case("flipped-byte", lambda f: _flip(f / decoder), decoder, "SHA-256")
    yield case("missing-file", lambda f: (f / encoder).unlink(), encoder, "missing")
    yield case("truncated", lambda f: _write(f / injector, _read(f / injector)[:-100]), injector, "bytes")
    yield case("too-long", lambda f: _write(f / "tokenizer.json", _read(f / "tokenizer.json") + b"\n"),
               "tokenizer.json", "bytes")  # fmt: skip
    first = ("roles", "decoder", 0)
    yield edited("parent-path", (*first, "path"), f"../{decoder}", f"../{decoder}", "leaves")
    yield edited("absolute-path", ("files", 0, "path"), "/etc/hosts", "/etc/hosts", "leaves")
    yield edited("next-version", ("schema_version",), 2, MANIFEST, "schema version 2")
    other = next(name for name in runtime_names() if name != good["target"])
    yield edited("other-target", ("target",), other, other)
    yield edited("no-role", ("roles", "decoder"), [], MANIFEST, "decoder")
    yield edited("wrong-type", ("context_capacity",), "many", MANIFEST, "context_capacity")
    yield edited("too-big", (*first, "bytes"), 1 << 40, "bytes")
    yield edited("bad-hash-field", ("files", 0, "sha256"), "00", MANIFEST, "sha256")
    yield case("no-json", lambda f: _write(f / MANIFEST, b"{ not json"), MANIFEST, "JSON")
    yield case("huge-manifest", lambda f: _write(f / MANIFEST, b" " * (MAX_MANIFEST + 1)), MANIFEST)
    yield case("not-a-tokenizer", lambda f: _replace(f, "tokenizer.json", b"[1, 2, 3]"), "tokenizer.json")
    yield case("not-a-graph", lambda f: _replace(f, decoder, b"\x08\x09" + bytes(1000)), decoder, runtime=True)


def folders(bundle: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Pipes, folders and links where files should be, under a manifest that is right."""

    def case(name: str, change: Callable[[Path], None], word: str, expect: str = REFUSED) -> dict[str, Any]:
        folder = _copied(bundle, out / name.replace(" ", "-"))
        change(folder)
        return {"name": name, "folder": folder, "expect": expect, "words": [word], "runtime": False}

    image = json.loads((bundle / "manifest.json").read_text())["selftest"]["image"]
    for word in ("tokenizer.json", image):
        yield case(f"a pipe where {Path(word).name} is", lambda f, w=word: _pipe(f / w), word)  # type: ignore[misc]
        yield case(f"a folder where {Path(word).name} is", lambda f, w=word: _folder(f / w), word)  # type: ignore[misc]
        yield case(f"{Path(word).name} is a link to outside", lambda f, w=word: _link_out(f, w), word)  # type: ignore[misc]
        yield case(f"{Path(word).name} is a link to itself", lambda f, w=word: _link(f / w, Path(w).name), word)  # type: ignore[misc]
        yield case(f"{Path(word).name} is a link within", lambda f, w=word: _link_within(f, w), word)  # type: ignore[misc]
        yield case(f"{Path(word).name} is empty", lambda f, w=word: (f / w).write_bytes(b"") and None, word)  # type: ignore[misc]
    yield case("the manifest is a pipe", lambda f: _pipe(f / "manifest.json"), "manifest.json")
    yield case("the manifest is a folder", lambda f: _folder(f / "manifest.json"), "manifest.json")
    yield case("unlisted files lie beside", lambda f: (f / "more").mkdir() or _pipe(f / "more" / "pipe"), "", "same")


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, to: str | Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _link_out(folder: Path, name: str) -> None:
    outside = folder.parent / f"{folder.name}.outside"
    shutil.move(folder / name, outside)
    _link(folder / name, os.path.relpath(outside, (folder / name).parent))


def _link_within(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder / "elsewhere")
    _link(folder / name, os.path.relpath(folder / "elsewhere", (folder / name).parent))


def _copied(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    return folder


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _flip(path: Path) -> None:
    """One bit of the byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(folder: Path, field: tuple[str | int, ...], value: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    at = manifest
    for step in field[:-1]:
        at = at[step]
    at[field[-1]] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _replace(folder: Path, name: str, content: bytes) -> None:
    """Other content, with the manifest's size and hash to match."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    for record in [*(r for records in manifest["roles"].values() for r in records), *manifest["files"]]:
        if record["path"] == name:
            record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
