"""A .tflite file: a flatbuffer of graphs, and behind it the constants that they share.

Constants stand outside of the flatbuffer (`Buffer.offset` and `size`, schema version 3c): inside they could not be more
than 2 GiB, and would be in memory several times. They are made one after the other as they are written.
"""

import hashlib
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

Bytes = NDArray[np.uint8]
ALIGNMENT = 64  # of a constant behind the flatbuffer
INLINE = 1 << 10  # bytes of a constant that stays inside: axes, shapes, small tables
DATA, OFFSET, SIZE = 4, 6, 8  # places of a Buffer's fields in its vtable
MARK = ("buffer_location", b"outside flatbuffers")  # metadata by which other tools know such a file


@dataclass(frozen=True)
class Constant:
    """Bytes that are made when they are written."""

    size: int
    make: Callable[[], Bytes]


class ModelFile:
    """A file that is being made: `model` in the schema's own classes, and what stands behind it."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model: ModelT = schema.ModelT()
        self.model.version, self.model.description = 3, "himix-edge"
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs, self.model.signatureDefs = [], []
        self.appended: dict[int, Constant] = {}  # by the number of the buffer
        self._known: dict[object, int] = {}
        self._places: dict[tuple[int, int], int] = {}  # buffers of large constants by address and size
        self._codes: dict[str, int] = {}
        mark = schema.MetadataT()
        mark.name, mark.buffer = MARK[0], self._inside(MARK[1])
        self.model.metadata = [mark]

    def operator_code(self, kind: str, version: int) -> int:
        """Number of the code of an operator, given by its name in the schema."""
        if kind not in self._codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = version
            self._codes[kind] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        number = self._codes[kind]
        self.model.operatorCodes[number].version = max(self.model.operatorCodes[number].version, version)
        return number

    def constant(self, tensor: Tensor) -> int:
        """Number of the buffer with a tensor's bytes; equal tensors have one."""
        tensor = tensor.detach().contiguous()
        size = tensor.numel() * tensor.element_size()
        place = tensor.data_ptr(), size
        if place in self._places:
            return self._places[place]
        content = as_bytes(tensor)
        key = hashlib.sha256(content.data).digest()
        if key not in self._known and size > INLINE:
            number = self.append(key, Constant(size, lambda: content))
            self._places[place] = number  # which stays this tensor's, as its bytes are kept
        elif key not in self._known:
            self._known[key] = self._inside(content.tobytes())
        return self._known[key]

    def append(self, key: object, constant: Constant) -> int:
        """Number of a buffer behind the flatbuffer; one for each key."""
        if key not in self._known:
            self._known[key] = len(self.model.buffers)
            self.model.buffers.append(self.schema.BufferT())
            self.appended[self._known[key]] = constant
        return self._known[key]

    def _inside(self, content: bytes) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1


def write_model(schema: Any, model: "ModelT", appended: dict[int, Constant], path: Path) -> None:
    """Write a file; it appears by renaming."""
    import flatbuffers

    for number, constant in appended.items():
        # the offset is put in when the flatbuffer's length is known; 0 would leave no room for it
        model.buffers[number].data, model.buffers[number].offset, model.buffers[number].size = None, 2, constant.size
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    packed = bytearray(builder.Output())
    root = schema.Model.GetRootAs(packed)
    end = len(packed)
    offsets = {}
    for number, constant in appended.items():
        offsets[number] = -(-end // ALIGNMENT) * ALIGNMENT
        end = offsets[number] + constant.size
        table = root.Buffers(number)._tab
        struct.pack_into("<Q", packed, table.Pos + table.Offset(OFFSET), offsets[number])
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(packed)
        for number, constant in appended.items():
            file.seek(offsets[number])
            content = constant.make()
            assert content.nbytes == constant.size
            file.write(content.data)
    fresh.replace(path)


class StoredModel:
    """A file, read: `model` in the schema's own classes; its constants stay on the disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        with path.open("rb") as file:
            self._content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        self.model: ModelT = schema.ModelT.InitFromPackedBuf(self._content, 0)
        self._spans = [(buffer.offset, buffer.size) for buffer in self.model.buffers]

    def constant(self, buffer: int) -> Bytes:
        """The bytes of a buffer. Raises ValueError if they are not all there."""
        offset, size = self._spans[buffer]
        if not offset:
            data = self.model.buffers[buffer].data
            return np.empty(0, np.uint8) if data is None else np.asarray(data, np.uint8)
        content: Bytes = self._content[offset : offset + size]
        if content.size != size:
            raise ValueError(f"buffer {buffer} ends behind the file")
        return content

    def appended(self) -> dict[int, Constant]:
        """What stands behind the flatbuffer, to write it again."""
        spans = {number: size for number, (offset, size) in enumerate(self._spans) if offset}
        return {number: Constant(size, partial(self.constant, number)) for number, size in spans.items()}


def as_bytes(tensor: Tensor) -> Bytes:
    """A tensor's memory."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
