"""What a bundle takes of adapters, and an adapter as its graphs take it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from himix_edge.adapter_file import MAX_HEADER_BYTES, Adapter, check_tensor, refuse_large
from himix_edge.bundle import Bundle
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.low_rank import DOWN, UP, adapter_linears, role_linears
from himix_edge.runtimes.engine import Factors, Floats
from himix_edge.runtimes.registry import find_runtime

INPUT, OUTPUT = ".input", ".output"  # behind a linear's name, in the file of scales


@dataclass(frozen=True)
class AdapterRoom:
    """What a bundle's graphs take of adapters.

    Attributes:
        rank: the largest.
        base: names the model that they have to be made for.
        scales: LINEAR.input float32 (in,) and LINEAR.output (out,): by what an export multiplied columns and rows of a
            linear's weight, which an adapter's factors need, too. What is left out is 1.
        config: the model's.
        where: the bundle, for messages.
    """

    rank: int
    base: str
    scales: Mapping[str, Floats] = field(repr=False)
    config: ModelConfig = field(repr=False)
    where: str

    def open(self, adapter: "str | Path | Adapter") -> tuple[Adapter, Factors]:
        """An adapter or its file, and as the graphs take it.

        Raises:
            InputError: as `Adapter.load`; also one of another model, or of a rank beyond the bundle's.
        """
        adapter = adapter if isinstance(adapter, Adapter) else Adapter.load(adapter, self.config)
        return adapter, self._fitted(adapter)

    def _fitted(self, adapter: Adapter) -> Factors:
        if adapter.base != self.base:
            raise InputError(
                f"{adapter.where}: made for another model ({adapter.base[:12]}; {self.where} is of "
                f"{self.base[:12]}); make it again with himix adapter --bundle {self.where}"
            )
        if adapter.rank > self.rank:
            raise InputError(
                f"{adapter.where}: its rank is {adapter.rank}, {self.where} takes up to {self.rank}; export that again "
                f"with --adapter-rank {adapter.rank}"
            )
        fitted = {}
        for role, linears in role_linears(self.config).items():
            tensors: dict[str, Floats] = {}
            for linear, (columns, rows) in linears.items():
                down = adapter.tensors.get(linear + DOWN, np.zeros((columns, adapter.rank), np.float32))
                up = adapter.tensors.get(linear + UP, np.zeros((adapter.rank, rows), np.float32))
                scale_in, scale_out = self.scales.get(linear + INPUT), self.scales.get(linear + OUTPUT)
                tensors[linear + DOWN] = np.ascontiguousarray(down if scale_in is None else down * scale_in[:, None])
                tensors[linear + UP] = np.ascontiguousarray(up if scale_out is None else up * scale_out)
            fitted[role] = tensors
        return fitted


@dataclass(frozen=True)
class NoRoom:
    """Of a model that takes no adapters while it is open; `why` is for whoever gives one."""

    why: str = "this model was not opened from a bundle that takes adapters; himix export --adapter-rank makes one"

    def open(self, adapter: object) -> tuple[Adapter, Factors]:
        """Raises InputError."""
        raise InputError(self.why)


def no_adapter(config: ModelConfig) -> Factors:
    """What engines take while no adapter is used: zeros of rank 1, which change nothing."""
    return {
        role: {
            name + kind: np.zeros(shape, np.float32)
            for name, (columns, rows) in linears.items()
            for kind, shape in ((DOWN, (columns, 1)), (UP, (1, rows)))
        }
        for role, linears in role_linears(config).items()
    }


def adapter_room(bundle: Bundle) -> AdapterRoom | NoRoom:
    """What a verified bundle takes of adapters. Raises InputError for a file of scales that is none."""
    places, merged = bundle.manifest.adapters, bundle.manifest.provenance.get("merged_adapter")
    if places is None:
        name = merged.get("name") if isinstance(merged, dict) else None
        fixed = "" if name is None else f", and {name!r:.80} is merged into its weights for good"
        how = (
            "export the model again with --adapter-rank"
            if find_runtime(bundle.manifest.target).adapters
            else "merge one at its export: --adapter"
        )
        return NoRoom(f"{bundle.folder}: this bundle takes no adapters{fixed}; {how}")
    scales = {} if places.scales is None else _read_scales(bundle.folder / places.scales, bundle.config)
    return AdapterRoom(places.rank, places.base, scales, bundle.config, str(bundle.folder))


def _read_scales(path: Path, config: ModelConfig) -> dict[str, Floats]:
    linears = adapter_linears(config)
    shapes = {name + INPUT: (columns,) for name, (columns, _) in linears.items()} | {
        name + OUTPUT: (rows,) for name, (_, rows) in linears.items()
    }
    try:
        refuse_large(path, 4 * sum(map(math.prod, shapes.values())) + MAX_HEADER_BYTES + 8)
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                if name not in shapes:
                    raise InputError(f"{path}: {name!r:.80} is no linear's scale")
                check_tensor(path, name, file.get_slice(name), shapes[name])
            scales = {name: file.get_slice(name)[:] for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error})") from None
    for name, scale in scales.items():
        if not np.isfinite(scale).all():
            raise InputError(f"{path}: {name} holds NaN or infinite numbers")
    return scales
