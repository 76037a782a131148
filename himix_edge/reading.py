"""Reading files that nobody vouches for: regular files alone, bounded, strict, with one clear line for what is wrong.

Everything that comes from outside and is read whole goes through here: configurations, manifests, records, recipes,
policies, conversations, templates. What is memory-mapped or decoded by a library (weights, images) has limits of its
own where it is read.
"""

import json
import os
import re
import stat
from collections.abc import Hashable, Iterable
from io import BufferedReader
from pathlib import Path
from typing import Never, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from himix_edge.errors import InputError

T = TypeVar("T")
JsonObject = dict[str, object]  # what JSON and YAML call an object or a mapping
MAX_VALUE = 1 << 24  # no field of a real model is larger; a config that says so is refused before any allocation
MAX_LAYERS = 1024
MAX_CONFIG_BYTES = 1 << 20
MAX_MESSAGE = 300  # characters of a field's name and its problem, both of which the file may choose
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair in JSON; alone it is in no encoding, and fails wherever it goes
MAX_NESTING = 64  # levels of lists and objects; a real configuration has a dozen


def read_bytes(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """The content of a file of at most `max_bytes`.

    Raises:
        InputError: it is missing, larger, a folder, a device or a pipe (which might never end), or cannot be read.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size or max_bytes  # what /proc holds has no size
            content = file.read(min(size, max_bytes) + 1)  # no more: a buffer of that size is made first
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
    if len(content) > max_bytes:
        raise InputError(f"{path}: larger than {_size(max_bytes)}; this is not the kind of file that belongs here")
    return content


def open_regular(path: Path) -> BufferedReader:
    """A file opened for reading, if it is one.

    Raises:
        InputError: it is missing, a folder, a device or a pipe (which might never end), or cannot be opened.
    """
    try:
        # without waiting: opening a pipe that nobody writes into would
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InputError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; refused")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The text of a UTF-8 file, without the mark that some editors begin it with.

    Raises InputError as `read_bytes`, and if it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> object:
    """Parse a JSON file. Raises InputError as `read_text`, and as `parse_json`."""
    return parse_json(read_text(path, max_bytes), str(path))


def parse_json(text: str, where: str) -> object:
    """JSON as its standard has it.

    Raises:
        InputError: naming `where`: not JSON, NaN or Infinity, half a character, a name twice in one object, or nested
            over 64 deep.
    """
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_each_name_once)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        before = error.object[max(0, error.start - 40) : error.start]
        raise InputError(f"{where}: half a character, {error.object[error.start]!r} alone, behind {before!r}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None
    refuse_deep(value, where)
    return value


def read_yaml(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> object:
    """Parse a YAML file of plain values. Raises InputError as `read_text`, and as `parse_yaml`."""
    return parse_yaml(read_text(path, max_bytes), str(path))


def parse_yaml(text: str, where: str) -> object:
    """YAML of plain values.

    Raises:
        InputError: naming `where`: not YAML, objects of a program, anchors (a few lines of them unfold to gigabytes),
            a name twice in one mapping, or nested over 64 deep.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputError(f"{where}: anchors and aliases (&, *) are not supported; write the values out")
        value: object = yaml.load(text, _Yaml)  # a SafeLoader
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise InputError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None
    refuse_deep(value, where)
    return value


class _Yaml(yaml.SafeLoader):
    """Plain values; 1e-3 is a number, as YAML 1.2 has it, and no name stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        twice = _first_twice(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} stands twice in one mapping")
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def validated(kind: type[T] | TypeAdapter[T], raw: object, where: str) -> T:
    """`raw`, which came from JSON or YAML, as a `kind`: strictly, so that "64" is no number and 1 no truth value.

    Args:
        kind: a pydantic model, a dataclass, or a TypeAdapter.
        raw: plain values.
        where: the file, for messages.

    Raises:
        InputError: naming `where`, the field and what is wrong with it.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        # as JSON: there a list may be a tuple and an object a dataclass, while a string is still no number
        return adapter.validate_json(json.dumps(raw, allow_nan=False), strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # YAML's dates and sets; NaN
        raise InputError(f"{where}: {error}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as `field: what is wrong`, in one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    text = " ".join(f"{field}: {problem}".split() if field else problem.split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def refuse_deep(value: object, where: str) -> None:
    """Raises InputError for values nested over 64 deep, which programs that walk them cannot take."""
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        level = [
            item for v in level if isinstance(v, dict | list) for item in (v.values() if isinstance(v, dict) else v)
        ]
        if not level:
            return
    raise InputError(f"{where}: nested more than {MAX_NESTING} deep; refused")


def refuse_absurd(value: object, where: str, name: str = "") -> None:
    """Raises InputError for a size that no model has. Below a field called `config`, 0 and negatives may stand."""
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_absurd(item, where, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_absurd(item, where, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        most = MAX_LAYERS if name.endswith("num_hidden_layers") else MAX_VALUE
        free = ".config." in name or "feature_layer" in name
        if value > most or (value < 1 and not free):
            raise InputError(f"{where}: {name} = {value if abs(value) < 10**20 else 'a huge number'} is out of range")


def _refuse_constant(word: str) -> Never:
    raise ValueError(f"{word} is no JSON number")


def _each_name_once(pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"{_first_twice(name for name, _ in pairs)!r} stands twice in one object")
    return found


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
