"""Integers and scales, read back out of an .aimodel folder."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himix_edge.export.quantization.tensors import QuantizedTensor

TYPES: dict[str, np.dtype[Any]] = {"si8": np.dtype(np.int8), "f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
BITS = {"si8": 8, "si4": 4}
RESOURCE = re.compile(r'(resource_\w+): "0x([0-9A-Fa-f]+)"')
ALIGNMENT = 4  # bytes in front of a resource's content that say how it is aligned


def stored_tensors(folder: Path) -> Iterator[QuantizedTensor]:
    """Each matrix of integers and scales, in the order of the program."""
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(folder).program
    # the binding has no way to a large constant's bytes but the printed program
    _, _, resources = str(program).partition("dialect_resources: {")
    large = {name: bytes.fromhex(content)[ALIGNMENT:] for name, content in RESOURCE.findall(resources)}
    seen = set()
    for operation in _operations(program._module._mlir_module.operation):
        if operation.name == "coreai.blockwise_shift_scale":
            names = tuple(str(_constant(value).attributes["value"])[:200] for value in list(operation.operands)[:2])
            if names in seen and all(name.startswith("dense_resource") for name in names):
                continue
            seen.add(names)
            (values, kind), (scale, _) = (_read(_constant(value), large) for value in list(operation.operands)[:2])
            floats = torch.from_numpy(scale.astype(np.float32))
            yield QuantizedTensor(torch.from_numpy(values), floats, BITS[kind])


def _operations(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for each in block.operations:
                inner = getattr(each, "operation", each)
                yield inner
                yield from _operations(inner)


def _constant(value: Any) -> Any:
    return getattr(value.owner, "operation", value.owner)


def _read(constant: Any, large: dict[str, bytes]) -> tuple[NDArray[Any], str]:
    """A constant's array, and its type's name."""
    attribute = constant.attributes["value"]
    result = constant.results[0].type
    shape, kind = tuple(result.shape), str(result.element_type)
    named = re.match(r"dense_resource<(\w+)>", str(attribute)[:200])
    if named is None:
        array = np.array(attribute.maybe_downcast())
        whole = np.full(shape, array.reshape(-1)[0]) if array.size == 1 else array.reshape(shape)
        return whole, kind
    content = np.frombuffer(bytearray(large[named[1]]), np.uint8)
    if kind != "si4":
        return content.view(TYPES[kind]).reshape(shape), kind
    nibbles = np.stack([content & 15, content >> 4], -1).reshape(-1)[: int(np.prod(shape))].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(shape), kind
