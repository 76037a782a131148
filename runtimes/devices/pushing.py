"""Bringing files to a device: what is there already stays there, a cut transfer goes on where it ended, hashes decide.

The device needs nothing but a POSIX shell with cat, wc, head, mv, df and sha256sum: coreutils, busybox and toybox do.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from himix_edge.errors import InputError
from himix_edge.files import sha256
from himix_edge.runtimes.devices.link import Link, LinkLost, Result

TRIES = 6
BETWEEN_TRIES_S = 2.0
HEADROOM = 16 << 20


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
        InputError: no room, no right to write, or a tool is missing there.
    """
    digests = {name: sha256(path) for name, path in files.items()}
    there = _look(link, list(files), folder)
    total = Sent()
    missing = sum(path.stat().st_size for name, path in files.items() if there[name] != _There("done", digests[name]))
    arrived = sum(int(found.value) for found in there.values() if found.state == "part")
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
            if offset < size:
                with path.open("rb") as file:
                    file.seek(offset)
                    link.send(f"cat >> {target}.part", file)
            total.sent = before + size
            found = link.run(f"sha256sum < {target}.part", timeout=600)
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
    count = int(found.output.split()[0])
    if not count:
        return 0
    if count <= path.stat().st_size:
        there = link.run(f"sha256sum < {target}.part", timeout=600).output.split()[:1]
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
    makes = " ".join(quoted(folder, name) for name in folders)
    _must(link, link.run(f"mkdir -p {makes} && command -v sha256sum >/dev/null"), f"{folder} (it needs sha256sum)")
    lines = []
    for name in names:
        path = quoted(folder, name)
        lines.append(
            f"if [ -f {path} ]; then echo done $(sha256sum < {path}); "
            f"elif [ -f {path}.part ]; then echo part $(wc -c < {path}.part); else echo none -; fi"
        )
    found = _must(link, link.run("; ".join(lines), timeout=600), folder).output.splitlines()
    pairs = (line.split()[:2] for line in found)
    return dict(zip(names, (_There(state, value) for state, value in pairs), strict=True))


def _check_room(link: Link, folder: str, needed: int) -> None:
    fields = _must(link, link.run(f"df -Pk {quoted(folder)} | tail -n 1"), folder).output.split()
    numbers = [field for field in fields if field.isdigit()]
    free = int(numbers[2]) * 1024 if len(numbers) >= 3 else None
    if free is not None and free < needed + HEADROOM:
        raise InputError(
            f"{link.name}: no room: {needed / 1e6:.0f} MB are to be sent to {folder}, {free / 1e6:.0f} MB are free; "
            "make room there"
        )


def _must(link: Link, result: Result, what: str) -> Result:
    if result.code:
        reason = (result.errors.strip() or result.output.strip() or f"exit code {result.code}").splitlines()[-1]
        raise InputError(f"{link.name}: {what}: {reason}")
    return result
