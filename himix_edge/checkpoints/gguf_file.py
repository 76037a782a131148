"""GGUF files (llama.cpp's format, versions 2 and 3), in one part or split into several: what is in them, and where.

The header is read by a parser of our own, because a file from anywhere must not exhaust memory: the gguf package's
reader loops over whatever counts a file declares. Here every count, length and offset is compared with the bytes that
are left before anything is made of it. Payloads are dequantised by the gguf package.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from himix_edge import extras
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, open_regular

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral is "llama" there
SUPPORTED = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S",
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4",
)  # fmt: skip
MAX_HEADER = 64 << 20  # the largest vocabularies take 15 MiB
MAX_ENTRIES = 1 << 16  # metadata entries, and tensors
MAX_ITEMS = 1 << 21  # of all arrays together; a vocabulary of 2**18 tokens and its merges have 2**20
MAX_NAME = 256
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor: its file, shape in torch's order, type by name, and the bytes that hold it."""

    path: Path
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GGUF:
    """A model's metadata and tensors; payloads are read later. `parts` are its files, the first with the metadata."""

    parts: tuple[Path, ...]
    metadata: JsonObject
    tensors: dict[str, GGUFTensor]

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def whole(self) -> Path:
        """The file's name as it was before it was split."""
        found = PART.fullmatch(self.path.name)
        return self.path.with_name(f"{found['stem']}.gguf") if found and len(self.parts) > 1 else self.path

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file; of a split model any part may be given, and all are read.

    Raises:
        InputError: missing, damaged or truncated, a part without the others, a version, architecture or tensor type
            that is not supported.
        BackendMissing: the gguf package is not installed.
    """
    with extras.needed("gguf", extras.CONVERT):
        import gguf  # noqa: F401
    metadata, tensors = _read_part(path)
    parts = _parts(path, metadata)
    if len(parts) > 1:
        metadata, tensors = _joined(parts)
    file = GGUF(parts, metadata, tensors)
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise InputError(f"{path}: general.type is {str(kind)[:40]!r}: an addition to a model, not a model")
    if file.architecture not in ARCHITECTURES:
        name = repr(file.architecture[:40])
        raise InputError(f"{path}: architecture {name} is not supported; supported: {', '.join(ARCHITECTURES)}")
    return file


def read_tensor(tensor: GGUFTensor) -> Tensor:
    """The values of a tensor, dequantised to float32. Raises InputError if the file has become shorter."""
    from gguf import GGMLQuantizationType, dequantize

    with open_regular(tensor.path) as file:
        file.seek(tensor.offset)
        raw = np.frombuffer(file.read(tensor.bytes), np.uint8)
    if len(raw) != tensor.bytes:
        raise InputError(f"{tensor.path}: truncated while it was read")
    rows = raw.reshape(tensor.shape[0] if len(tensor.shape) > 1 else 1, -1)
    with np.errstate(all="ignore"):  # what is not finite is refused by name where it is used
        values = dequantize(rows, GGMLQuantizationType[tensor.type])
    return torch.from_numpy(np.array(values, np.float32, order="C")).reshape(tensor.shape)


def _parts(path: Path, metadata: JsonObject) -> tuple[Path, ...]:
    """All files of the model that `path` is or belongs to."""
    count = metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= 99_999:
        raise InputError(f"{path}: split.count is {count!r}")
    if count < 2:
        return (path,)
    found = PART.fullmatch(path.name)
    if not found or int(found["count"]) != count:
        raise InputError(
            f"{path}: one part of a model that was split into {count}; name the parts NAME-00001-of-{count:05}.gguf "
            "and so on, or join them with llama-gguf-split --merge"
        )
    parts = []
    for number in range(1, count + 1):
        part = path.with_name(f"{found['stem']}-{number:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise InputError(
                f"{path}: part {int(found['number'])} of {count} of a split model; {part.name} is missing beside it"
            )
        parts.append(part)
    return tuple(parts)


def _joined(parts: tuple[Path, ...]) -> tuple[JsonObject, dict[str, GGUFTensor]]:
    """The first part's metadata, and the tensors of all."""
    whole: JsonObject = {}
    tensors: dict[str, GGUFTensor] = {}
    for number, part in enumerate(parts):
        metadata, found = _read_part(part)
        if (metadata.get("split.no"), metadata.get("split.count")) != (number, len(parts)):
            raise InputError(f"{part}: not part {number + 1} of {len(parts)}, which its name says; from another model?")
        if twice := next(iter(found.keys() & tensors.keys()), None):
            raise InputError(f"{part}: tensor {twice} stands in an earlier part too")
        whole = whole or metadata
        tensors |= found
    if whole.get("split.tensors.count", len(tensors)) != len(tensors):
        raise InputError(
            f"{parts[0]}: split.tensors.count is {whole['split.tensors.count']}, but the parts hold {len(tensors)}"
        )
    return whole, tensors


def _read_part(path: Path) -> tuple[JsonObject, dict[str, GGUFTensor]]:
    """One file's metadata and tensors."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if size < 24:
            raise InputError(f"{path}: not a GGUF file")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Header(path, data), size)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None


def _parse(header: "_Header", size: int) -> tuple[JsonObject, dict[str, GGUFTensor]]:
    path = header.path
    if header.take(4) != b"GGUF":
        raise InputError(f"{path}: not a GGUF file")
    version = header.integer("I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        said = f"{swapped} in big-endian byte order" if swapped in (1, 2, 3) else version
        raise InputError(f"{path}: GGUF version {said} is not supported; versions 2 and 3 (little-endian) are")
    tensor_count, entry_count = header.count(MAX_ENTRIES, "tensors"), header.count(MAX_ENTRIES, "metadata entries")
    metadata: JsonObject = {}
    for _ in range(entry_count):
        name = header.name("a metadata entry")
        if name in metadata:
            raise InputError(f"{path}: damaged: {name} is there twice")
        metadata[name] = header.value(header.integer("I"))
    infos = [_tensor_info(header) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
        raise InputError(f"{path}: general.alignment is {repr(alignment)[:40]}")
    start = -(-header.position // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, number, offset in infos:
        if name in tensors:
            raise InputError(f"{path}: tensor {name} is there twice")
        if offset % alignment:
            raise InputError(f"{path}: damaged: tensor {name} is not aligned to {alignment} bytes")
        tensors[name] = _place(path, name, shape, number, start + offset)
        if tensors[name].offset + tensors[name].bytes > size:
            raise InputError(f"{path}: truncated: tensor {name} ends beyond the file; download it again")
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise InputError(f"{path}: damaged: tensors {before} and {name} overlap")
        end, before = tensor.offset + tensor.bytes, name
    return metadata, tensors


def _tensor_info(header: "_Header") -> tuple[str, tuple[int, ...], int, int]:
    name = header.name("a tensor")
    dimensions = header.integer("I")
    if not 1 <= dimensions <= 4:
        raise InputError(f"{header.path}: damaged: tensor {name!r} has {dimensions} dimensions")
    shape = [header.integer("Q") for _ in range(dimensions)]
    if not all(0 < size <= 1 << 40 for size in shape):
        raise InputError(f"{header.path}: damaged: tensor {name!r} has shape {shape}")
    return name, tuple(reversed(shape)), header.integer("I"), header.integer("Q")


def _place(path: Path, name: str, shape: tuple[int, ...], number: int, offset: int) -> GGUFTensor:
    """The bytes that a tensor of type `number` takes. Raises InputError if that type is not supported."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds = {kind.value: kind for kind in GGMLQuantizationType}
    kind = kinds[number].name if number in kinds else f"number {number}"
    if kind not in SUPPORTED:
        raise InputError(
            f"{path}: tensor {name} has type {kind}, which is not supported; requantise the file to one of "
            f"{', '.join(SUPPORTED)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[kinds[number]]
    if shape[-1] % block:
        raise InputError(f"{path}: tensor {name}: {shape[-1]} columns are not whole blocks of {kind}")
    return GGUFTensor(path, shape, kind, offset, math.prod(shape) // block * block_bytes)


class _Header:
    """A cursor that goes neither beyond the file nor beyond what a header may take."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.position = path, 0
        self._data, self._end, self._items = data, min(len(data), MAX_HEADER), 0

    def take(self, count: int) -> bytes:
        start = self._step(count)
        return self._data[start : start + count]

    def scalar(self, code: str) -> float | bool:
        code = f"<{code}"
        value: float | bool = struct.unpack_from(code, self._data, self._step(struct.calcsize(code)))[0]
        return value

    def integer(self, code: str) -> int:
        """As `scalar`, of an integer type."""
        return int(self.scalar(code))

    def count(self, most: int, what: str) -> int:
        number = self.integer("Q")
        if number > most:
            raise InputError(f"{self.path}: damaged: {number} {what}")
        return number

    def string(self) -> str:
        try:
            return self.take(self.integer("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: damaged: a string is not UTF-8") from None

    def name(self, what: str) -> str:
        name = self.string()
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError(f"{self.path}: damaged: {what} is called {name[:40]!r}")
        return name

    def value(self, kind: int) -> object:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise InputError(f"{self.path}: damaged: metadata of type {kind}")
        item, count = self.integer("I"), self.count(MAX_ITEMS - self._items, "items in an array")
        self._items += count
        if item == STRING:
            return [self.string() for _ in range(count)]
        if item not in SCALARS:
            raise InputError(f"{self.path}: damaged: an array of type {item}")
        code = f"<{count}{SCALARS[item]}"
        return list(struct.unpack_from(code, self._data, self._step(struct.calcsize(code))))

    def _step(self, count: int) -> int:
        """Where the next `count` bytes start; the cursor is behind them then."""
        start = self.position
        if count > self._end - start:
            raise InputError(f"{self.path}: truncated or damaged GGUF header")
        self.position = start + count
        return start
