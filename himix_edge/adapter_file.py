"""Adapters as files: for each linear that one changes A and B, and the name of the model that it was made for."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.files import as_path, staged_file
from himix_edge.low_rank import DOWN, MOST_RANK, UP, Sizes, adapter_linears, image_linears
from himix_edge.reading import open_regular

FORMAT = "himix-adapter-1"
MAX_HEADER_BYTES, MAX_FILE_BYTES = 16 << 20, 16 << 30
DIGEST = re.compile(r"[0-9a-f]{64}")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to a model's linears: x A B, for each linear that it changes.

    Attributes:
        tensors: LINEAR.lora_A float32 (in, r) and LINEAR.lora_B float32 (r, out); its scale is in B.
        rank: r, the same for all.
        base: names the weights that it was made for, as a bundle's manifest does.
        where: its file, for messages.
    """

    tensors: Mapping[str, Floats] = field(repr=False)
    rank: int
    base: str
    where: str

    @staticmethod
    def load(path: str | Path, config: ModelConfig) -> "Adapter":
        """Read what `himix adapter` wrote, for a model of this configuration.

        Raises:
            InputError: it is missing, damaged, something else, or has tensors that the model has no place for.
        """
        path, linears = as_path(path), adapter_linears(config)
        most = sum(map(sum, linears.values())) * 4 * MOST_RANK
        try:
            refuse_large(path, most + MAX_HEADER_BYTES + 8)
            with safe_open(path, framework="numpy") as file:
                rank, base = _header(path, file.metadata() or {})
                names = list(file.keys())
                _check_names(path, names, linears)
                for name in names:
                    check_tensor(path, name, file.get_slice(name), _shape(name, linears, rank))
                tensors = {name: file.get_slice(name)[:] for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or not an adapter's file ({error})") from None
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise InputError(f"{path}: {name} holds NaN or infinite numbers; a damaged adapter")
        return Adapter(tensors, rank, base, str(path))

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, atomically. Raises InputError where a file of another kind is in the way."""
        metadata = {"format": FORMAT, "rank": str(self.rank), "base": self.base}
        with staged_file(as_path(path), is_adapter_file) as staged:
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}, staged, metadata)

    def image_digest(self, config: ModelConfig) -> str:
        """Names what it changes of an image's keys and values; "": nothing."""
        linears, digest = image_linears(config), hashlib.sha256()
        names = [name for name in sorted(self.tensors) if _linear(name) in linears and self.tensors[name].any()]
        for name in names:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).data)
        return digest.hexdigest()[:16] if names else ""


def adapter_base(path: Path) -> str:
    """Which model an adapter's file was made for. Raises InputError for what is none."""
    try:
        refuse_large(path, MAX_FILE_BYTES)
        with safe_open(path, framework="numpy") as file:
            return _header(path, file.metadata() or {})[1]
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or not an adapter's file ({error})") from None


def _header(path: Path, metadata: Mapping[str, str]) -> tuple[int, str]:
    """Rank and base. Raises InputError for a file of another format, or with others than there are."""
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not an adapter's file; himix adapter makes one of a PEFT folder")
    rank, base = metadata.get("rank", ""), metadata.get("base", "")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", rank, re.ASCII) or int(rank) > MOST_RANK:
        raise InputError(f"{path}: rank is {rank[:40]!r}; 1 to {MOST_RANK} are there")
    if not DIGEST.fullmatch(base):
        raise InputError(f"{path}: base is {base[:80]!r}, which names no model")
    return int(rank), base


def is_adapter_file(path: Path) -> bool:
    """Whether a file says that it is an adapter, and so may be replaced by another."""
    try:
        with safe_open(path, framework="numpy") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except (SafetensorError, OSError, ValueError):
        return False


def refuse_large(path: Path, max_bytes: int) -> None:
    """Raises InputError for what is no regular file, or larger than expected in whole or in its header."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = int.from_bytes(file.read(8), "little")
    if size > max_bytes:
        raise InputError(f"{path}: larger than any adapter of this model ({max_bytes >> 20} MiB)")
    if header > MAX_HEADER_BYTES:
        raise InputError(f"{path}: damaged or not an adapter's file (its header says {header} bytes)")


def _linear(name: str) -> str:
    return name.removesuffix(DOWN).removesuffix(UP)


def _shape(name: str, linears: Sizes, rank: int) -> tuple[int, ...]:
    columns, rows = linears[_linear(name)]
    return (columns, rank) if name.endswith(DOWN) else (rank, rows)


def _check_names(path: Path, names: Iterable[str], linears: Sizes) -> None:
    """Raises InputError for a tensor that the model has no place for, and for half of a pair."""
    there = set(names)
    if not there:
        raise InputError(f"{path}: holds no tensors")
    for name in sorted(there):
        linear, kind = _linear(name), next((k for k in (DOWN, UP) if name.endswith(k)), "")
        if not kind or linear not in linears:
            raise InputError(f"{path}: {name!r:.80} fits no linear of this model that takes adapters")
        other = linear + (UP if kind == DOWN else DOWN)
        if other not in there:
            raise InputError(f"{path}: {name} has no {other}")


def check_tensor(path: Path, name: str, found: object, shape: tuple[int, ...]) -> None:
    kind, size = found.get_dtype(), tuple(found.get_shape())  # type: ignore[attr-defined]  # safetensors has no types
    if kind != "F32":
        raise InputError(f"{path}: {name} is stored as {kind:.20}; an adapter's file holds float32 (F32)")
    if size != shape:
        raise InputError(f"{path}: {name} has shape {list(size)!s:.60}, this model and rank take {list(shape)}")
