"""Adapters of low rank as they are stored: PEFT's folders, our own checkpoints, and the files that bundles take."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from himix_edge.adapter_file import Adapter, Floats
from himix_edge.checkpoints.assemble import expected_shapes, meta_model
from himix_edge.checkpoints.identity import base_id
from himix_edge.checkpoints.lazy import LazyTensor, as_weights, cast, checked
from himix_edge.checkpoints.peft_config import PEFT_CONFIG, read_peft_config
from himix_edge.checkpoints.safetensors import file_weights
from himix_edge.checkpoints.source import Source, base_weights, open_source
from himix_edge.checkpoints.trained import is_adapter, overlay
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.files import sha256
from himix_edge.low_rank import DOWN, UP, adapter_linears

PEFT_WEIGHTS = "adapter_model.safetensors"
HALF = re.compile(r"(?:base_model\.model\.)?(?P<linear>.+)\.(?P<half>lora_[AB])\.weight")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as it is stored: for each linear A (r, in) and B (out, r), whose scale is in B.

    `base` names the model that it was made for, "" where nothing says so.
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    where: str
    files: tuple[Path, ...]
    base: str = ""

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(len(down) for down, _ in self.pairs.values())


def open_adapter(path: Path, config: ModelConfig) -> StoredAdapter:
    """Read an adapter for a model of this configuration.

    Args:
        path: a folder of PEFT's (adapter_config.json and adapter_model.safetensors), one of our checkpoints with
            adapters, or a file that `himix adapter` wrote.
        config: the model's.

    Raises:
        InputError: nothing there, damaged, something that is no LoRA or that is not followed here (named), tensors
            that fit no linear of the model, NaN.
    """
    if path.is_file():
        adapter = Adapter.load(path, config)
        pairs = {
            name.removesuffix(DOWN): (torch.from_numpy(tensor).T, torch.from_numpy(adapter.tensors[_other(name)]).T)
            for name, tensor in adapter.tensors.items()
            if name.endswith(DOWN)
        }
        return StoredAdapter(pairs, str(path), (path,), adapter.base)
    if (path / PEFT_CONFIG).is_file():
        return _peft(path, config)
    if not path.is_dir():
        raise InputError(f"{path}: no such adapter")
    source = open_source(path)
    if source.base is None or not any(map(is_adapter, source.trained)):
        raise InputError(f"{path}: holds no adapter: neither {PEFT_CONFIG} nor a checkpoint with LoRA's tensors")
    return _own(path, source)


def as_file(stored: StoredAdapter, config: ModelConfig, base: str, where: str) -> Adapter:
    """An adapter as a bundle's: its linears are among those whose graphs take adapters, all of one rank.

    Args:
        stored: the adapter.
        config: the model's configuration.
        base: names the model, as the bundle's manifest does.
        where: the bundle, for messages.

    Raises:
        InputError: it was made for another model, or changes a linear that takes no adapters.
    """
    if stored.base not in ("", base):
        raise InputError(
            f"{stored.where}: the model beneath its adapters ({stored.base[:12]}) is not that of {where} ({base[:12]})"
        )
    linears, tensors = adapter_linears(config), dict[str, Floats]()
    for name, (down, up) in stored.pairs.items():
        if name not in linears:
            raise InputError(
                f"{stored.where}: changes {name}, which takes no adapters in a bundle; merge it at an export: "
                f"himix export --adapter {stored.where}"
            )
        rank = stored.rank
        columns, rows = linears[name]
        wide, tall = torch.zeros(columns, rank), torch.zeros(rank, rows)
        wide[:, : len(down)], tall[: len(down)] = down.T, up.T
        tensors |= {name + DOWN: wide.numpy(), name + UP: tall.numpy()}
    return Adapter(tensors, stored.rank, base, stored.where)


def merged(source: Source, path: Path) -> Source:
    """A model with an adapter in its weights: W + B A.

    Raises:
        InputError: as `open_adapter`; also an adapter whose file names another model.
    """
    stored = open_adapter(path, source.config)
    if stored.base:
        found = base_id(source)
        if found != stored.base:
            raise InputError(
                f"{path}: the model beneath its adapters ({stored.base[:12]}) is not {source.where} ({found[:12]})"
            )
    halves = {
        name + kind: half for name, pair in stored.pairs.items() for kind, half in zip((DOWN, UP), pair, strict=True)
    }
    weights = overlay(source.weights, as_weights(halves), 1.0, stored.where)
    record: dict[str, object] = {
        "name": path.name, "rank": stored.rank, "linears": len(stored.pairs),
        "sha256": [sha256(file) for file in stored.files],
    }  # fmt: skip
    return replace(source, weights=weights, files=(*source.files, *stored.files), adapter=record)


def _own(path: Path, source: Source) -> StoredAdapter:
    """What training wrote: a checkpoint's trained tensors, on a base of packages."""
    assert source.base is not None
    halves = {
        name: cast(t.read(), torch.float32, f"{path}: {name}") for name, t in source.trained.items() if is_adapter(name)
    }
    pairs = {
        name.removesuffix(DOWN): (half, source.base.lora_scale * halves[_other(name)])
        for name, half in halves.items()
        if name.endswith(DOWN)
    }
    others = {name: tensor for name, tensor in source.trained.items() if not is_adapter(name)}
    beneath = overlay(base_weights(source.base), others, 0.0, str(path))
    return StoredAdapter(pairs, str(path), source.files, base_id(source, beneath))


def _peft(folder: Path, config: ModelConfig) -> StoredAdapter:
    settings, path = read_peft_config(folder / PEFT_CONFIG), folder / PEFT_WEIGHTS
    if not path.is_file():
        pickled = folder / "adapter_model.bin"
        what = (
            f"{pickled}: pickle weights are never opened; save the adapter as safetensors"
            if pickled.is_file()
            else f"{path}: no such file"
        )
        raise InputError(what)
    shapes = expected_shapes(meta_model(config))
    halves: dict[str, dict[str, LazyTensor]] = {}
    theirs: dict[str, str] = {}
    for name, tensor in checked(file_weights(path), str(path)).items():
        found = HALF.fullmatch(name)
        if found is None:
            raise InputError(f"{path}: {name!r:.120} is no half of a linear's LoRA; only those are taken")
        linear = _linear(found["linear"], shapes)
        if linear is None:
            raise InputError(f"{path}: {name!r:.120} fits no linear of this model")
        if found["half"] in halves.setdefault(linear, {}):
            raise InputError(f"{path}: {linear} has two {found['half']}")
        halves[linear][found["half"]], theirs[linear] = tensor, found["linear"]
    if not halves:
        raise InputError(f"{path}: holds no tensors")
    pairs = {}
    for linear, pair in halves.items():
        rank = settings.rank_of(theirs[linear])
        down, up = _pair(path, linear, pair, shapes[f"{linear}.weight"], rank)
        pairs[linear] = down, settings.scale_of(theirs[linear], rank) * up
    return StoredAdapter(pairs, str(folder), (folder / PEFT_CONFIG, path))


def _pair(
    path: Path, linear: str, halves: Mapping[str, LazyTensor], shape: tuple[int, ...], rank: int
) -> tuple[Tensor, Tensor]:
    rows, columns = shape
    for half, expected in (("lora_A", (rank, columns)), ("lora_B", (rows, rank))):
        if half not in halves:
            raise InputError(f"{path}: {linear} has no {half}")
        if halves[half].shape != expected:
            raise InputError(
                f"{path}: {half} of {linear} has shape {list(halves[half].shape)!s:.60}, the model and {PEFT_CONFIG} "
                f"say {list(expected)}"
            )
    down, up = (cast(halves[half].read(), torch.float32, f"{path}: {linear}.{half}") for half in ("lora_A", "lora_B"))
    return down, up


def _linear(path: str, shapes: Collection[str]) -> str | None:
    """This project's name of a linear that PEFT found at `path`, in the model as a library of others has it."""
    for name in (path, path.replace("language_model.", "", 1), f"model.{path}"):
        if f"{name}.weight" in shapes and not name.endswith("norm"):
            return name
    return None


def _other(name: str) -> str:
    return name.removesuffix(DOWN) + UP
