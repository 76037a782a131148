"""Damaged files, made from valid ones by a seeded generator."""

import copy
import json
import random
import struct
from typing import Any, Literal

Kind = Literal["bytes", "text", "json", "safetensors"]

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30)
VALUES: tuple[Any, ...] = (
    *NUMBERS, 0.5, -0.0, 1e-310, 1e308, 1e400, float("nan"), float("inf"), True, False, None, "", "0", "64",
    "2000000000",
    "x" * 5000, "../../etc/passwd", "/dev/zero", "a\0b", "a\nb", "\ud800", "\x1b[31m", "$(touch x)", "*", "²", "\u202e",
    [], {}, [[]], [None], {"": None}, [1, 2, 3], {"a": {"b": {}}},
)  # fmt: skip
DEEP = "a list in a list in a list ..."


def mutated(seeds: list[bytes], kind: Kind, source: random.Random) -> bytes:
    """One of `seeds` with one to four changes that suit its kind; now and then none, or bytes changed on top."""
    content = source.choice(seeds)
    if kind == "safetensors":
        content = _safetensors(content, source)
    elif kind == "json":
        content = _json(content, source)
    elif kind == "text":
        content = _text(content, source)
    if kind == "bytes" or source.random() < 0.15:
        for _ in range(source.choice((1, 1, 2, 4))):
            content = _bytes(content, seeds, source)
    return content


def _json(content: bytes, source: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return content
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        value = _changed(value, source)
    levels = source.choice((70, 500, 100_000))
    text = json.dumps(value).replace(json.dumps(DEEP), "[" * levels + "]" * levels)
    if source.random() < 0.05:  # a name twice
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    return text.encode()


def _changed(value: Any, source: random.Random) -> Any:
    """`value` with one node of it replaced, removed, doubled or wrapped, or one name of an object changed."""
    holders = [item for item in _nodes(value, 3000) if isinstance(item, dict | list) and item]
    if not holders:
        return copy.deepcopy(source.choice(VALUES))
    holder = source.choice(holders)
    place = source.choice(list(holder)) if isinstance(holder, dict) else source.randrange(len(holder))
    action = source.randrange(6)
    if action == 0:
        del holder[place]
    elif action == 1 and isinstance(holder, dict):
        holder[source.choice(("x", "", "__class__", str(place) + "s", "\ud800", "a" * 300))] = holder.pop(place)
    elif action == 2:
        holder[place] = [[holder[place]]] if source.random() < 0.5 else DEEP
    elif action == 3 and isinstance(holder, list):
        holder *= source.choice((2, 50))
    elif action == 4 and isinstance(holder[place], int | float) and not isinstance(holder[place], bool):
        number = holder[place]
        holder[place] = source.choice((str(number), -number, number + 1, number * 1000, number / 3, [number]))
    else:
        holder[place] = copy.deepcopy(source.choice(VALUES))
    return value


def _nodes(value: Any, most: int) -> list[Any]:
    found, todo = [], [value]
    while todo and len(found) < most:
        item = todo.pop()
        found.append(item)
        if isinstance(item, dict | list):
            todo += item.values() if isinstance(item, dict) else item
    return found


def _text(content: bytes, source: random.Random) -> bytes:
    lines = content.decode("utf-8", "replace").splitlines() or [""]
    for _ in range(source.choice((1, 2, 3))):
        at = source.randrange(len(lines))
        line, action = lines[at], source.randrange(6)
        if action == 0 and len(lines) > 1:
            del lines[at]
        elif action == 1:
            lines.insert(at, source.choice(lines))
        elif action == 2 and ":" in line:
            lines[at] = f"{line.split(':')[0]}: {json.dumps(source.choice(VALUES))}"
        elif action == 3:
            lines[at] = (
                source.choice(("  ", "\t", "- ", "&a ", "*a", "!!python/object:os.system ", "? ", "{{", "%}")) + line
            )
        else:
            words = line.split(" ")
            words[source.randrange(len(words))] = str(source.choice(VALUES))[:2000]
            lines[at] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _safetensors(content: bytes, source: random.Random) -> bytes:
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = _json(content[8:end], source)
    size = len(header) if source.random() < 0.8 else source.choice((0, 1, 2**31, 2**63, len(header) + 9))
    return struct.pack("<Q", size) + header + content[end:]


def _bytes(content: bytes, seeds: list[bytes], source: random.Random) -> bytes:
    data = bytearray(content) or bytearray(b"\0")
    # half of the changes fall into the first kilobyte, where headers are
    at = source.randrange(len(data) if source.random() < 0.5 else min(len(data), 1024))
    action = source.randrange(8)
    if action == 0:
        data[at] ^= 1 << source.randrange(8)
    elif action == 1:
        data[at] = source.choice((0, 1, 127, 128, 255))
    elif action == 2:
        del data[at:]
    elif action == 3:
        del data[at : at + source.choice((1, 2, 4, 16, 256))]
    elif action == 4:
        data[at:at] = source.randbytes(source.choice((1, 4, 64)))
    elif action == 5:
        data[at:at] = data[at : at + source.choice((1, 8, 512))] * source.choice((1, 2, 20))
    elif action == 6:
        code, width = source.choice((("<I", 4), ("<Q", 8), (">I", 4), (">H", 2)))
        data[at : at + width] = struct.pack(code, source.choice(NUMBERS) % (1 << 8 * width))
    else:
        other = source.choice(seeds)
        start = source.randrange(len(other)) if other else 0
        data[at : at + 64] = other[start : start + 64]
    return bytes(data)
