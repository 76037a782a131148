"""A Core ML package's model file, checked before coremltools builds its program: what it holds was chosen elsewhere."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from himix_edge.errors import InputError

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Value
    from coremltools.proto.Model_pb2 import Model

WEIGHTS = "@model_path/weights/"
ALIGNMENT = 64  # of a blob's record in the weights' file, which starts with a header of that size


def check_program(spec: "Model", package: Path, operators: Collection[str]) -> None:
    """Check the MIL program of a parsed Model.proto.

    Raises:
        InputError: it is none, has an operator that is not among `operators`, or weights outside of the package.
    """
    if spec.WhichOneof("Type") != "mlProgram":
        raise InputError(f"{package}: no MIL program in it; an exported bundle has one")
    sizes: dict[str, int] = {}
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            unknown = sorted({operation.type for operation in block.operations} - set(operators))
            if unknown:
                raise InputError(
                    f"{package}: the Core ML interpreter has no operator {', '.join(unknown)[:200]}; open it on macOS"
                )
            for operation in block.operations:
                for value in operation.attributes.values():
                    if value.WhichOneof("value") == "blobFileValue":
                        _check_blob(value.blobFileValue, package, sizes)


def _check_blob(blob: "Value.BlobFileValue", package: Path, sizes: dict[str, int]) -> None:
    name = blob.fileName.removeprefix(WEIGHTS)
    if not blob.fileName.startswith(WEIGHTS) or "/" in name or name in ("", ".", ".."):
        raise InputError(f"{package}: weights in {blob.fileName[:100]!r}, outside of the package; refused")
    if name not in sizes:
        path = package / "Data" / "com.apple.CoreML" / "weights" / name
        sizes[name] = path.stat().st_size if path.is_file() else 0
    if blob.offset % ALIGNMENT or not ALIGNMENT <= blob.offset <= sizes[name] - ALIGNMENT:
        raise InputError(f"{package}: weights at byte {blob.offset} of {name}, which has {sizes[name]}; refused")
