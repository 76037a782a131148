"""Bringing files to a device: what is there already stays there, a cut transfer goes on where it ended, hashes decide.

The device needs nothing but a POSIX shell with cat, wc, head, mv, df and sha256sum: coreutils, busybox and toybox do.
"""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from himix_edge.bench.devices.link import Link, LinkLost, Result
from himix_edge.bundle import Bundle, read_manifest
from himix_edge.errors import InputError, last_line
from himix_edge.files import sha256

HASHING_S = 600.0
MAX_COMMAND = 8192  # characters; Linux takes 128 Ki in one argument, older phones less
TRIES = 6
BETWEEN_TRIES_S = 2.0
HEADROOM = 16 << 20


def refuse_tiles(folder: Path) -> None:
    """Raises InputError for a bundle whose pictures stand in its text: what runs on other devices reads none."""
    Bundle(folder, read_manifest(folder)).config.refuse_pictures_in_text(f"{folder}: measuring on another device")


@dataclass
class Sent:
    """What a push moved, in bytes: over the link, and what was there before (whole files and parts of files)."""

    sent: int = 0
    kept: int = 0


@dataclass(frozen=True)
class _There:
    """A file on the device: "done" with its hash, a "part" with its size, or "none"."""

    state: str
    value: str


def push(link: Link, files: Mapping[str, Path], folder: str, progress: Callable[[int, int], None]) -> Sent:
    """Make `folder` on the device hold `files` (name there -> file here), each with the right hash.

    Args:
        folder: a path on the device; a leading ~/ is its home.
        progress: called with the bytes there and all bytes.

    Raises:
        LinkLost: the link broke six times; what arrived is kept for the next call.
        InputError: no room, no right to write, a tool is missing there, or a name that is no file's below it.
    """
    for name in files:
        _check_name(name)
    try:
        return _push(link, files, folder, progress)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; it was there when the bundle was checked") from None


def _push(link: Link, files: Mapping[str, Path], folder: str, progress: Callable[[int, int], None]) -> Sent:
    digests = {name: sha256(path) for name, path in files.items()}
    there = _look(link, list(files), folder)
    total = Sent()
    missing = sum(path.stat().st_size for name, path in files.items() if there[name] != _There("done", digests[name]))
    arrived = sum(as_size(found.value) or 0 for found in there.values() if found.state == "part")
    _check_room(link, folder, missing - arrived)
    whole = sum(path.stat().st_size for path in files.values())
    for name, path in files.items():
        if there[name] == _There("done", digests[name]):
            total.kept += path.stat().st_size
        else:
            if there[name].state == "done":  # another version of it
                link.run(f"rm -f {quoted(folder, name)}")
            _push_file(link, path, digests[name], quoted(folder, name), total)
        progress(total.kept + total.sent, whole)
    return total


def quoted(folder: str, name: str = "") -> str:
    """A path on the device for its shell; only a leading ~/ keeps its meaning."""
    path = f"{folder}/{name}" if name else folder
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def as_size(text: str) -> int | None:
    """A device's word for a size as a number; None if it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def free_bytes(df: str) -> int | None:
    """From the last line of `df -Pk`: what is free there. Its first column may hold spaces, its fourth is a number."""
    numbers = [number for field in df.split() if (number := as_size(field)) is not None]
    return numbers[2] * 1024 if len(numbers) >= 3 else None


def _check_name(name: str) -> None:
    odd = {"", ".", ".."} & set(name.split("/")) or any(ord(sign) < 32 or ord(sign) == 127 for sign in name)
    if odd or name.endswith(".part"):  # what is on its way is called so
        raise InputError(f"{name!r}: a file of this name is not sent to a device; rename it")


def _push_file(link: Link, path: Path, digest: str, target: str, total: Sent) -> None:
    lost: LinkLost | None = None
    size = path.stat().st_size
    before = total.sent
    for attempt in range(TRIES):
        try:
            if attempt:
                time.sleep(BETWEEN_TRIES_S)
            offset = _usable_part(link, path, target)
            if not attempt:
                total.kept += offset
                before -= offset
            total.sent = before + offset
            if offset < size or not size:
                with path.open("rb") as file:
                    file.seek(offset)
                    link.send(f"cat >> {target}.part", file)
            total.sent = before + size
            found = link.run(f"sha256sum < {target}.part", timeout=HASHING_S)
            if found.output.split()[:1] == [digest]:
                _must(link, link.run(f"mv {target}.part {target}"), target)
                return
            link.run(f"rm -f {target}.part")
        except LinkLost as error:
            lost = error
    raise LinkLost(
        f"{link.name}: the link broke {TRIES} times while {path.name} was sent ({lost or 'its hash was wrong'}); "
        "what arrived is kept, the same command goes on from there"
    )


def _usable_part(link: Link, path: Path, target: str) -> int:
    """Bytes of a partial file there that are the beginning of this one; a part that is not is removed."""
    found = _must(link, link.run(f"if [ -f {target}.part ]; then wc -c < {target}.part; else echo 0; fi"), target)
    count = as_size(found.output.strip())
    if count == 0:
        return 0
    if count is not None and count <= path.stat().st_size:
        there = link.run(f"sha256sum < {target}.part", timeout=HASHING_S).output.split()[:1]
        if there == [_prefix_hash(path, count)]:
            return count
    link.run(f"rm -f {target}.part")
    return 0


def _prefix_hash(path: Path, count: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while count > 0 and (block := file.read(min(count, 1 << 20))):
            digest.update(block)
            count -= len(block)
    return digest.hexdigest()


def _look(link: Link, names: list[str], folder: str) -> dict[str, _There]:
    """Make the folders, and see what is in them."""
    folders = sorted({os.path.dirname(name) for name in names})  # noqa: PTH120  names on the device, always with /
    for some in _commands([quoted(folder, name) for name in folders]):
        made = link.run(f"mkdir -p {' '.join(some)} && command -v sha256sum >/dev/null")
        _must(link, made, f"{folder} (it needs sha256sum)")
    lines = []
    for name in names:
        path = quoted(folder, name)
        lines.append(
            f"if [ -f {path} ]; then echo done $(sha256sum < {path}); "
            f"elif [ -f {path}.part ]; then echo part $(wc -c < {path}.part); else echo none -; fi"
        )
    found: list[str] = []
    for some in _commands(lines):
        said = _must(link, link.run("; ".join(some), timeout=HASHING_S), folder).output.splitlines()
        if len(said) != len(some) or any(line.split()[:1] not in (["done"], ["part"], ["none"]) for line in said):
            raise InputError(f"{link.name}: {folder}: its shell answers {last_line(chr(10).join(said), 'nothing')!r}")
        found += said
    pairs = ([*line.split(), "", ""][:2] for line in found)
    return dict(zip(names, (_There(state, value) for state, value in pairs), strict=True))


def _commands(parts: list[str]) -> Iterator[list[str]]:
    """The parts in order, as many to a command as it may hold."""
    some: list[str] = []
    for part in parts:
        if some and sum(map(len, some)) + len(part) > MAX_COMMAND:
            yield some
            some = []
        some.append(part)
    if some:
        yield some


def _check_room(link: Link, folder: str, needed: int) -> None:
    free = free_bytes(_must(link, link.run(f"df -Pk {quoted(folder)} | tail -n 1"), folder).output)
    if free is not None and free < needed + HEADROOM:
        raise InputError(
            f"{link.name}: no room: {needed / 1e6:.0f} MB are to be sent to {folder}, {free / 1e6:.0f} MB are free; "
            "make room there"
        )


def _must(link: Link, result: Result, what: str) -> Result:
    if result.code:
        reason = last_line(result.errors) or last_line(result.output, f"exit code {result.code}")
        raise InputError(f"{link.name}: {what}: {reason}")
    return result
